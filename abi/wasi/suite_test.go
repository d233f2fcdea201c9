package wasi_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/engines"
)

// suiteEnv names a checkout of the repository WebAssembly/wasi-testsuite, branch
// prod/testsuite-base.
const suiteEnv = "FORGEONE_WASI_TESTSUITE"

// suiteSize is how many modules it has for preview 1.
const suiteSize = 72

// suiteCase is what the suite says of a module, in a file beside it.
type suiteCase struct {
	Args     []string          `json:"args"`
	Env      map[string]string `json:"env"`
	Root     string            `json:"root"` // a fixture directory, the guest's "/"
	ExitCode int               `json:"exit_code"`
	Stdout   *string           `json:"stdout"`
}

// TestSuite runs the public suite on every engine at hand, each module in a
// fresh copy of its directory. What a module prints, how it exits and what it
// asks of the gate must be the same on each.
func TestSuite(t *testing.T) {
	root := os.Getenv(suiteEnv)
	if root == "" {
		t.Skipf("set %s to a checkout of WebAssembly/wasi-testsuite", suiteEnv)
	}
	modules, err := filepath.Glob(filepath.Join(root, "tests", "*", "testsuite", "wasm32-wasip1", "*.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	if len(modules) != suiteSize {
		t.Fatalf("%d modules under %s, want %d", len(modules), root, suiteSize)
	}
	seen := map[string]string{} // by module, what it came to on the first engine
	all := allEngines()
	for _, engine := range slices.Sorted(maps.Keys(all)) {
		passed := 0
		t.Run(engine, func(t *testing.T) {
			e := all[engine](t)
			for _, path := range modules {
				name := strings.TrimSuffix(filepath.Base(path), ".wasm")
				passed += map[bool]int{true: 1}[t.Run(name, func(t *testing.T) {
					wasm, err := os.ReadFile(path)
					if err != nil {
						t.Fatal(err)
					}
					got := runCase(t, compile(t, e, wasm), path)
					if want, ok := seen[path]; ok && got != want {
						t.Errorf("on this engine:\n%s\non another:\n%s", got, want)
					}
					seen[path] = got
				})]
			}
		})
		t.Logf("wasi-testsuite: %d of %d on %s", passed, len(modules), engine)
	}
}

// runCase runs one module and compares with what the suite wants. It returns
// what an engine must not change.
func runCase(t *testing.T, m engines.Module, path string) string {
	t.Helper()
	var c suiteCase
	b, err := os.ReadFile(strings.TrimSuffix(path, ".wasm") + ".json")
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var mounts []abi.Mount
	if c.Root != "" {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(filepath.Join(filepath.Dir(path), c.Root))); err != nil {
			t.Fatal(err)
		}
		mounts = append(mounts, mount(t, "/", dir))
	}
	var env []string
	for _, k := range slices.Sorted(maps.Keys(c.Env)) {
		env = append(env, k+"="+c.Env[k])
	}
	w := newWorld(t, nil, mounts...)
	exit := w.run(t, m, append([]string{filepath.Base(path)}, c.Args...), env)
	if exit != c.ExitCode {
		t.Errorf("exit code %d, want %d\nstderr: %s\nasked: %s", exit, c.ExitCode, w.stderr.String(), strings.Join(w.asked, "\n\t"))
	}
	if c.Stdout != nil && w.stdout.String() != *c.Stdout {
		t.Errorf("stdout %q, want %q", w.stdout.String(), *c.Stdout)
	}
	return w.stdout.String() + "\n" + times.ReplaceAllString(strings.Join(w.asked, "\n"), "$1")
}

// times are arguments that no two runs have in common.
var times = regexp.MustCompile(`(?m)^(file_times \S+|time_sleep|stdio_read \S+ \S+) .*$`)
