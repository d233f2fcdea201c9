//go:build !wasmer && !wasmtime

package diff_test

import (
	"crypto/sha256"
	"encoding/hex"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/diff"
	"forgeone.dev/forgeone/engines/worker"
)

// binariesEnv names the folder of forgeone-engine-wasmer and -wasmtime, as
// `make build` leaves them. They are built if it is empty.
const binariesEnv = "FORGEONE_DIFF_ENGINES"

// built is where others leaves what it builds.
var built string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "enginetest-diff-")
	if err != nil {
		log.Fatal(err)
	}
	built = dir
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		log.Print(err)
	}
	os.Exit(code)
}

// others are the engines that need cgo, in workers: two of them cannot be in
// one binary.
func others(t testing.TB) (list []diff.Subject) {
	t.Helper()
	for _, name := range []string{"wasmer", "wasmtime"} {
		binary, missing := engineBinary(t, name)
		if missing != "" {
			t.Logf("enginetest/diff: %s is left out: %s", name, missing)
			continue
		}
		content, err := os.ReadFile(binary)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(content)
		cfg := worker.Config{Binary: binary, SHA256: hex.EncodeToString(sum[:]), Engine: name, Args: []string{"serve", "--bare"}}
		list = append(list, subject(t, name, func() (engines.WasmEngine, error) { return worker.New(cfg) }))
	}
	return list
}

// engineBinary is the path of an engine's program, or why there is none.
func engineBinary(t testing.TB, name string) (path, missing string) {
	t.Helper()
	file := "forgeone-engine-" + name
	if dir := os.Getenv(binariesEnv); dir != "" {
		return filepath.Join(dir, file), ""
	}
	path = filepath.Join(built, file)
	if _, err := os.Stat(path); err == nil {
		return path, ""
	}
	if missing := noBuild(); missing != "" {
		return "", missing
	}
	out, err := exec.CommandContext(t.Context(), "go", "build", "-tags", name, "-o", path, "forgeone.dev/forgeone/cmd/forgeone-engine").CombinedOutput()
	if err != nil {
		t.Fatalf("go build -tags %s: %v\n%s", name, err, out)
	}
	return path, ""
}

// noBuild says why engines that need cgo cannot be built, "" if they can.
func noBuild() string {
	if testing.Short() {
		return "building it takes long, and the test is to be short; " + binariesEnv + " names a folder that has it"
	}
	out, err := exec.Command("go", "env", "CGO_ENABLED", "CC").Output()
	if err != nil {
		return "go env: " + err.Error()
	}
	enabled, cc, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if enabled != "1" {
		return "CGO_ENABLED is not 1"
	}
	if _, err := exec.LookPath(strings.Fields(cc)[0]); err != nil {
		return "there is no C compiler: " + err.Error()
	}
	return ""
}
