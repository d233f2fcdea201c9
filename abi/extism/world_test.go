package extism_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/abi/extism"
	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/meter"
	"forgeone.dev/forgeone/engines/wazero"
	"forgeone.dev/forgeone/engines/worker"
	"forgeone.dev/forgeone/zta"
)

// world is a gate over a real log, with a policy that allows everything, and a
// few effects that a test can look at.
type world struct {
	gate    *abi.Gate
	subject *abi.Subject

	mu   sync.Mutex
	said []string // arguments and payloads of the effects
}

func (w *world) effects() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string{}, w.said...)
}

// newWorld makes a world in which a plugin is granted the given syscalls.
func newWorld(t testing.TB, grants ...string) *world {
	t.Helper()
	w := &world{}
	effect := func(f func(sc *abi.SyscallContext) ([]byte, error)) abi.SyscallHandler {
		return func(_ context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			entry := sc.Syscall
			for _, a := range sc.Args {
				entry += " " + a
			}
			if sc.Payload != nil {
				entry += " <" + string(sc.Payload) + ">"
			}
			w.said = append(w.said, entry)
			return f(sc)
		}
	}
	reg := new(abi.SyscallRegistry)
	err := reg.Register(
		abi.Registration{Name: "log_write", Args: []string{"level", "message"}, MinTrust: capability.Limited,
			Handler: effect(func(*abi.SyscallContext) ([]byte, error) { return nil, nil })},
		abi.Registration{Name: "http_request", Args: []string{"method", "url"}, MinTrust: capability.Limited,
			Handler: effect(func(sc *abi.SyscallContext) ([]byte, error) {
				switch sc.Args[1] {
				case "http://broken.example/":
					return []byte("no head"), nil
				case "http://moved.example/":
					return []byte(`{"status":302,"headers":{"Location":["/there"]}}` + "\n"), nil
				case "http://moved.example/there":
					return []byte(`{"status":308,"headers":{"Location":["https://a.example/?q#f"]}}` + "\n"), nil
				case "http://round.example/":
					return []byte(`{"status":301,"headers":{"Location":["http://round.example/"]}}` + "\n"), nil
				case "http://lost.example/":
					return []byte(`{"status":303,"headers":{"Location":["://"]}}` + "\n"), nil
				case "http://down.example/":
					return nil, abi.Fail(abi.CodeNotFound, "no such host")
				}
				return []byte(`{"status":203,"headers":{"X-A":["1","2"],"Empty":[]}}` + "\nthe body\nof it"), nil
			})},
		abi.Registration{Name: "test_multiply", Args: []string{"a", "b"}, MinTrust: capability.Limited,
			Handler: effect(func(sc *abi.SyscallContext) ([]byte, error) {
				a, errA := strconv.Atoi(sc.Args[0])
				b, errB := strconv.Atoi(sc.Args[1])
				return strconv.AppendInt(nil, int64(a*b), 10), errors.Join(errA, errB)
			})},
		abi.Registration{Name: "test_greet", Args: []string{"who"}, MinTrust: capability.Limited,
			Handler: effect(func(sc *abi.SyscallContext) ([]byte, error) {
				if sc.Args[0] == "" {
					return nil, abi.Fail(abi.CodeNotFound, "nobody is there")
				}
				return []byte(sc.Args[0] + ": " + string(sc.Payload)), nil
			})},
	)
	if err != nil {
		t.Fatal(err)
	}
	graph, err := reg.Compile([]zta.Policy{{Name: "all", Syscalls: []string{"*"}}}, zta.Enforce)
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(audit.Options{Dir: t.TempDir(), Name: "forgeone/test", AllowGenerate: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	if w.gate, err = abi.NewGate(abi.GateOptions{Registry: reg, Graph: graph, Log: log}); err != nil {
		t.Fatal(err)
	}
	set, err := capability.New(capability.Grant{Syscalls: grants})
	if err != nil {
		t.Fatal(err)
	}
	id := zta.Identity{ID: "tester", TrustVector: zta.Signed}
	w.subject = &abi.Subject{Plugin: "guest", Identity: id, TrustLevel: capability.Core, Capabilities: set, Container: abi.NewContainer("c")}
	return w
}

// begin begins a call, which ends with the test.
func (w *world) begin(t testing.TB) *abi.Call {
	t.Helper()
	call, err := w.gate.Begin(context.Background(), w.subject, "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = call.End(nil, nil) })
	return call
}

// options are how plugins are compiled here: with everything that a host asks
// for.
var options = engines.CompileOptions{MemoryLimitPages: 64, Interruptible: true, Fuel: 1 << 32, Snapshots: true}

// newEngine makes a metered engine that is closed with the test.
func newEngine(t testing.TB) engines.WasmEngine {
	t.Helper()
	upstream, err := wazero.New()
	if err != nil {
		t.Fatal(err)
	}
	return owned(t, meter.Wrap(upstream, meter.Limits{}))
}

// allEngines are those that are at hand: wazero, and the workers that make build
// has made.
func allEngines() map[string]func(testing.TB) engines.WasmEngine {
	all := map[string]func(testing.TB) engines.WasmEngine{"wazero": newEngine}
	for _, name := range []string{"wasmer", "wasmtime"} {
		binary := filepath.Join("..", "..", "bin", "forgeone-engine-"+name)
		if b, err := os.ReadFile(binary); err == nil {
			all[name] = func(t testing.TB) engines.WasmEngine {
				t.Helper()
				binary, err := filepath.Abs(binary)
				if err != nil {
					t.Fatal(err)
				}
				e, err := worker.New(worker.Config{
					Binary: binary, SHA256: fmt.Sprintf("%x", sha256.Sum256(b)), Engine: name,
					Env: map[string]string{"LD_LIBRARY_PATH": filepath.Dir(binary)},
				})
				if err != nil {
					t.Fatal(err)
				}
				return owned(t, e)
			}
		}
	}
	return all
}

func owned(t testing.TB, e engines.WasmEngine) engines.WasmEngine {
	t.Helper()
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func compile(t testing.TB, e engines.WasmEngine, wasm []byte) engines.Module {
	t.Helper()
	m, err := e.Compile(context.Background(), wasm, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// plugin is a started instance.
type plugin struct {
	testing.TB
	binding *extism.Binding
	inst    *extism.Instance
	call    *abi.Call
}

func start(t testing.TB, w *world, e engines.WasmEngine, wasm []byte, config extism.Config) *plugin {
	t.Helper()
	b, err := extism.New(context.Background(), e, options, compile(t, e, wasm), config)
	if err != nil {
		t.Fatal(err)
	}
	p := &plugin{TB: t, binding: b, call: w.begin(t)}
	if p.inst, err = b.Instantiate(p.call); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(p.inst.Close(), b.Close()); err != nil {
			t.Error(err)
		}
	})
	return p
}

// run calls a function that is to succeed.
func (p *plugin) run(function, input string) string {
	p.Helper()
	out, err := p.binding.Call(p.call, p.inst, function, []byte(input))
	if err != nil {
		p.Fatalf("%s: %v", function, err)
	}
	return string(out)
}

// fails calls a function that is to fail of its own accord.
func (p *plugin) fails(function, input string) *extism.FunctionError {
	p.Helper()
	out, err := p.binding.Call(p.call, p.inst, function, []byte(input))
	failed, ok := errors.AsType[*extism.FunctionError](err)
	if !ok || out != nil {
		p.Fatalf("%s: output %q, error %v; want a FunctionError alone", function, out, err)
	}
	return failed
}
