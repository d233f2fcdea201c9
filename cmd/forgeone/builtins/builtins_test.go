package builtins_test

import (
	"os/exec"
	"strings"
	"testing"

	"forgeone.dev/forgeone/cmd/forgeone/builtins"
)

// Each engine answers to its own name.
func TestNames(t *testing.T) {
	for _, e := range builtins.Engines() {
		engine, err := e.New()
		if err != nil {
			t.Fatal(err)
		}
		if got := engine.Info().Name; got != e.Name {
			t.Errorf("the engine for %q says it is %q", e.Name, got)
		}
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Two cgo engines in one binary would call each other's code; the build must
// not get as far.
func TestOneCgoEngineOnly(t *testing.T) {
	out, err := exec.Command("go", "build", "-tags", "wasmer,wasmtime", ".").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "build_with_one_cgo_engine_only") {
		t.Errorf("go build -tags wasmer,wasmtime: %v\n%s", err, out)
	}
}
