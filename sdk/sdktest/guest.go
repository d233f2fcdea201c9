package sdktest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/abi/forge"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/meter"
	"forgeone.dev/forgeone/engines/wazero"
)

// FunctionError is a failure that a guest reported of its own accord: what a
// function of package sdk returned as its error.
type FunctionError = forge.FunctionError

// DeniedError says that the plugin was quarantined, and takes no calls.
type DeniedError = abi.DeniedError

// Guest is a compiled WASM plugin of forge/1.
type Guest struct {
	t       testing.TB
	module  engines.Module
	binding *forge.Binding
}

// Load reads and compiles a guest. What is no guest of forge/1 fails the test,
// with what is wrong with it.
func Load(t testing.TB, file string) *Guest {
	t.Helper()
	wasm, err := os.ReadFile(file) //nolint:gosec // the test names the file
	if err != nil {
		t.Fatalf("sdktest: %v", err)
	}
	inner, err := wazero.New()
	if err != nil {
		t.Fatalf("sdktest: %v", err)
	}
	engine := meter.Wrap(inner, meter.Limits{})
	t.Cleanup(func() {
		if err := engine.Close(); err != nil {
			t.Errorf("sdktest: %v", err)
		}
	})
	g := &Guest{t: t}
	if g.module, err = engine.Compile(t.Context(), wasm, engines.CompileOptions{Interruptible: true}); err != nil {
		t.Fatalf("sdktest: %s: %v", file, err)
	}
	t.Cleanup(func() {
		if err := g.module.Close(); err != nil {
			t.Errorf("sdktest: %v", err)
		}
	})
	if g.binding, err = forge.New(g.module); err != nil {
		t.Fatalf("sdktest: %s: %v", file, err)
	}
	return g
}

// Build builds the Go package in a directory as a guest, with the go command,
// and loads it.
func Build(t testing.TB, dir string) *Guest {
	t.Helper()
	file := filepath.Join(t.TempDir(), "plugin.wasm")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-buildmode=c-shared", "-o", file, ".") //nolint:gosec // nothing of it is foreign
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sdktest: go build in %s: %v\n%s", dir, err, out)
	}
	return Load(t, file)
}

// Functions are the functions that can be called, in name order.
func (g *Guest) Functions() []string { return g.binding.Functions() }

// Call calls a function, in an instance of its own, which is started for it: it
// asks for what its language's runtime needs as well. The call ends with the
// test. Errors: *[FunctionError] when the function failed, *[DeniedError] when
// the plugin was quarantined; any other says how the guest ended.
func (g *Guest) Call(k *Kernel, function string, input []byte) (output []byte, err error) {
	g.t.Helper()
	call, err := k.begin(g.t, function, input)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err = call.End(output, err); err != nil {
			output = nil
		}
	}()
	inst, err := g.binding.Instantiate(call, g.module)
	if err != nil {
		return nil, err
	}
	output, err = g.binding.Call(call, inst, function, input)
	return output, errors.Join(err, inst.Close())
}
