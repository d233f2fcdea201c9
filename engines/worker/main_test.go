//go:build linux || darwin

package worker_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/worker"
)

// roleEnv has the test binary be a worker of the kind that it names.
const roleEnv = "WORKER_TEST_ROLE"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "echo" {
		echoSocket(os.Args[2])
		os.Exit(0)
	}
	if name := os.Getenv(roleEnv); name != "" {
		if err := roles[name](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// testBinary is this program.
var testBinary = sync.OnceValues(func() (worker.Config, error) {
	path, err := os.Executable()
	if err != nil {
		return worker.Config{}, err
	}
	sum, err := checksum(path)
	return worker.Config{Binary: path, SHA256: sum}, err
})

func checksum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	return hex.EncodeToString(sum.Sum(nil)), err
}

// config is for workers that run the engine as cmd/forgeone-engine does.
func config(t testing.TB) worker.Config {
	t.Helper()
	cfg := role(t, "metered")
	cfg.Engine = engineName
	return cfg
}

// role is for workers that are this program in that role.
func role(t testing.TB, name string) worker.Config {
	t.Helper()
	cfg, err := testBinary()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Env = map[string]string{roleEnv: name}
	return cfg
}

// command runs this program with other arguments.
func command(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exec.Command(path, args...)
}

func newEngine(t testing.TB, cfg worker.Config) engines.WasmEngine {
	t.Helper()
	e, err := worker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}
