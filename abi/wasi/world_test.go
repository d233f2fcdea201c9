package wasi_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/abi/wasi"
	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/wazero"
	"forgeone.dev/forgeone/syscalls"
	"forgeone.dev/forgeone/zta"
)

// world is a kernel, all real but for its randomness, which is the same in each,
// with one subject that holds every capability.
type world struct {
	gate    *abi.Gate
	subject *abi.Subject

	stdout, stderr bytes.Buffer
	asked          []string // "name arg…", of what was allowed
}

// newWorld makes a world whose subject has the mounts.
func newWorld(t testing.TB, stdin io.Reader, mounts ...abi.Mount) *world {
	t.Helper()
	w := &world{}
	o := syscalls.Options{Stdio: func(_, stream string, p []byte) {
		if stream == "stdout" {
			w.stdout.Write(p)
			return
		}
		w.stderr.Write(p)
	}}
	if stdin != nil {
		o.Stdin = syscalls.NewStdin(stdin).Read
	}
	reg := new(abi.SyscallRegistry)
	chance := rand.NewChaCha8([32]byte{})
	for _, r := range syscalls.Registrations(o) {
		effect := r.Handler
		if r.Name == "random_get" {
			effect = func(_ context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
				n, err := strconv.Atoi(sc.Args[0])
				p := make([]byte, n)
				_, _ = chance.Read(p)
				return p, err
			}
		}
		r.Handler = func(ctx context.Context, sc *abi.SyscallContext, res *abi.Resolution) ([]byte, error) {
			w.asked = append(w.asked, sc.Syscall+" "+strings.Join(sc.Args, " "))
			return effect(ctx, sc, res)
		}
		if err := reg.Register(r); err != nil {
			t.Fatal(err)
		}
	}
	graph, err := reg.Compile([]zta.Policy{{Name: "all", Syscalls: []string{"*"}}}, zta.Enforce)
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(audit.Options{Dir: t.TempDir(), Name: "forgeone/test", AllowGenerate: true})
	if err != nil {
		t.Fatal(err)
	}
	if w.gate, err = abi.NewGate(abi.GateOptions{Registry: reg, Graph: graph, Log: log}); err != nil {
		t.Fatal(err)
	}
	w.subject = &abi.Subject{
		Plugin: "p", Identity: zta.Identity{ID: "tester", TrustVector: zta.Root}, TrustLevel: capability.Core,
		Capabilities: capability.All(), Container: abi.NewContainer(t.Name()), Mounts: mounts,
	}
	t.Cleanup(func() {
		w.subject.Container.Close("the test is over")
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// mount lends a directory.
func mount(t testing.TB, guest, dir string) abi.Mount {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := root.Close(); err != nil {
			t.Error(err)
		}
	})
	return abi.Mount{Guest: guest, Root: root}
}

// run runs a command and returns its exit code, -1 for one that ended otherwise.
func (w *world) run(t testing.TB, m engines.Module, args, env []string) int {
	t.Helper()
	call, err := w.gate.Begin(t.Context(), w.subject, "_start", nil)
	if err != nil {
		t.Fatal(err)
	}
	c := wasi.Config{Args: args, Env: env}
	for _, m := range w.subject.Mounts {
		c.Preopens = append(c.Preopens, m.Guest)
	}
	ctx := wasi.WithProcess(abi.WithCall(call.Context(), call), wasi.NewProcess(&c))
	err = start(ctx, m)
	if e := call.End(nil, err); err == nil && e != nil {
		t.Error(e)
	}
	var exit *wasi.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit.Code)
	}
	t.Log(err)
	return -1
}

func start(ctx context.Context, m engines.Module) error {
	inst, err := m.Instantiate(ctx, engines.Imports{Host: map[string]*engines.HostModule{wasi.ModuleName: wasi.HostModule()}})
	if err != nil {
		return err
	}
	f, err := inst.Func("_start")
	if err == nil {
		err = f.Call(ctx, nil)
	}
	return errors.Join(err, inst.Close())
}

// compile compiles a module for a test.
func compile(t testing.TB, e engines.WasmEngine, wasm []byte) engines.Module {
	t.Helper()
	m, err := e.Compile(t.Context(), wasm, engines.CompileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// constructor makes an engine.
type constructor func(t testing.TB) engines.WasmEngine

func newWazero(t testing.TB) engines.WasmEngine {
	t.Helper()
	e, err := wazero.New()
	if err != nil {
		t.Fatal(err)
	}
	return owned(t, e)
}

func owned(t testing.TB, e engines.WasmEngine) engines.WasmEngine {
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// allEngines are those that are at hand: wazero, what build tags link in, and
// the workers that make build has made.
func allEngines() map[string]constructor {
	all := map[string]constructor{"wazero": newWazero}
	_, here, _, _ := runtime.Caller(0)
	bin := filepath.Join(filepath.Dir(here), "..", "..", "bin")
	for _, name := range []string{"wasmer", "wasmtime"} {
		binary := filepath.Join(bin, "forgeone-engine-"+name)
		if _, err := os.Stat(binary); err == nil {
			all[name] = inWorker(name, binary)
		}
	}
	return all
}
