package forge_test

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/abi/forge"
	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/meter"
	"forgeone.dev/forgeone/engines/wazero"
	"forgeone.dev/forgeone/zta"
)

// world is a gate over a real log, with a policy that allows all but trap_…,
// which quarantines, and a few effects that a test can look at.
type world struct {
	gate    *abi.Gate
	log     *audit.Log
	subject *abi.Subject

	effects atomic.Int64 // that were carried out

	mu    sync.Mutex
	stdio strings.Builder
	notes []string // arguments of test_note
}

// newWorld makes a world in which a guest is granted the given syscalls.
func newWorld(t testing.TB, grants ...string) *world {
	t.Helper()
	w := &world{}
	handler := func(f func(ctx context.Context, sc *abi.SyscallContext) ([]byte, error)) abi.SyscallHandler {
		return func(ctx context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
			w.effects.Add(1)
			return f(ctx, sc)
		}
	}
	reg := new(abi.SyscallRegistry)
	begun := time.Now()
	err := reg.Register(
		abi.Registration{Name: "time_get", Args: []string{"clock"}, MinTrust: capability.Limited,
			Handler: handler(func(_ context.Context, sc *abi.SyscallContext) ([]byte, error) {
				ns := time.Now().UnixNano()
				if sc.Args[0] == "monotonic" {
					ns = int64(time.Since(begun)) + 1
				}
				return strconv.AppendInt(nil, ns, 10), nil
			})},
		abi.Registration{Name: "time_sleep", Args: []string{"ns"}, MinTrust: capability.Limited,
			Handler: handler(func(ctx context.Context, sc *abi.SyscallContext) ([]byte, error) {
				ns, err := strconv.ParseInt(sc.Args[0], 10, 64)
				if err != nil {
					return nil, err
				}
				select {
				case <-ctx.Done():
					return nil, abi.Fail(abi.CodeInterrupted, "interrupted")
				case <-time.After(time.Duration(ns)):
					return nil, nil
				}
			})},
		abi.Registration{Name: "random_get", Args: []string{"n"}, MinTrust: capability.Limited,
			Handler: handler(func(_ context.Context, sc *abi.SyscallContext) ([]byte, error) {
				n, err := strconv.Atoi(sc.Args[0])
				if err != nil {
					return nil, err
				}
				b := make([]byte, n)
				_, _ = rand.Read(b)
				return b, nil
			})},
		abi.Registration{Name: "stdio_write", Args: []string{"stream"}, MinTrust: capability.Limited,
			Handler: handler(func(_ context.Context, sc *abi.SyscallContext) ([]byte, error) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.stdio.Write(sc.Payload)
				return nil, nil
			})},
		abi.Registration{Name: "test_note", Args: []string{"text"}, MinTrust: capability.Limited,
			Handler: handler(func(_ context.Context, sc *abi.SyscallContext) ([]byte, error) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.notes = append(w.notes, sc.Args[0])
				return nil, nil
			})},
		abi.Registration{Name: "test_echo", Args: []string{"text..."}, MinTrust: capability.Limited,
			Handler: handler(func(_ context.Context, sc *abi.SyscallContext) ([]byte, error) {
				out := binary.LittleEndian.AppendUint64(nil, uint64(sc.Handle))
				for _, a := range sc.Args {
					out = append(append(out, a...), '|')
				}
				return append(out, sc.Payload...), nil
			})},
		abi.Registration{Name: "test_fail", MinTrust: capability.Limited,
			Handler: handler(func(context.Context, *abi.SyscallContext) ([]byte, error) {
				e := abi.Fail(abi.CodeNotFound, "no such \x00thing")
				e.Context = map[string]string{"path": "/data/ä", "a": ""}
				return nil, e
			})},
		abi.Registration{Name: "test_huge", MinTrust: capability.Limited,
			Handler: handler(func(context.Context, *abi.SyscallContext) ([]byte, error) {
				return make([]byte, forge.MaxResult+1), nil
			})},
		abi.Registration{Name: "trap_quarantine", MinTrust: capability.Limited,
			Handler: handler(func(context.Context, *abi.SyscallContext) ([]byte, error) { return nil, nil })},
	)
	if err != nil {
		t.Fatal(err)
	}
	graph, err := reg.Compile([]zta.Policy{
		{Name: "all", Syscalls: []string{"*"}},
		{Name: "trap", Syscalls: []string{"trap_*"}, DenyIdentities: []string{"*"}, OnViolation: zta.Quarantine},
	}, zta.Enforce)
	if err != nil {
		t.Fatal(err)
	}
	w.log, err = audit.Open(audit.Options{Dir: t.TempDir(), Name: "forgeone/test", AllowGenerate: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.log.Close(); err != nil {
			t.Error(err)
		}
	})
	if w.gate, err = abi.NewGate(abi.GateOptions{Registry: reg, Graph: graph, Log: w.log}); err != nil {
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

// begin begins a call, which ends with the test if the test does not end it.
func (w *world) begin(t testing.TB) *abi.Call {
	t.Helper()
	call, err := w.gate.Begin(context.Background(), w.subject, "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = call.End(nil, nil) })
	return call
}

// newEngine makes an engine that is closed with the test.
func newEngine(t testing.TB) engines.WasmEngine {
	t.Helper()
	e, err := wazero.New()
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

func compile(t testing.TB, e engines.WasmEngine, wasm []byte) engines.Module {
	t.Helper()
	m, err := e.Compile(context.Background(), wasm, engines.CompileOptions{Interruptible: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// goGuest is the Go guest of testdata/guest, built and compiled once for all
// tests: both take their time.
var goGuest = sync.OnceValues(func() (engines.Module, error) {
	dir, err := os.MkdirTemp("", "forgeone-guest")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "guest.wasm")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-o", out, "./testdata/guest")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, &exec.Error{Name: "go build: " + string(text), Err: err}
	}
	wasm, err := os.ReadFile(out)
	if err != nil {
		return nil, err
	}
	e, err := wazero.New()
	if err != nil {
		return nil, err
	}
	return meter.Wrap(e, meter.Limits{}).Compile(context.Background(), wasm, engines.CompileOptions{Interruptible: true, Snapshots: true})
})

// guest is a started instance of the Go guest.
type guest struct {
	*testing.T
	world   *world
	call    *abi.Call
	binding *forge.Binding
	inst    engines.Instance
}

// startGo starts the Go guest for a call in w.
func startGo(t *testing.T, w *world) *guest {
	t.Helper()
	m, err := goGuest()
	if err != nil {
		t.Fatal(err)
	}
	return start(t, w, m)
}

func start(t *testing.T, w *world, m engines.Module) *guest {
	t.Helper()
	b, err := forge.New(m)
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{T: t, world: w, call: w.begin(t), binding: b}
	if g.inst, err = b.Instantiate(g.call, m); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.inst.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// run calls a function that is to succeed.
func (g *guest) run(function, input string) string {
	g.Helper()
	out, err := g.binding.Call(g.call, g.inst, function, []byte(input))
	if err != nil {
		g.Fatal(err)
	}
	return string(out)
}

// fails calls a function that is not to.
func (g *guest) fails(function, input string) error {
	g.Helper()
	out, err := g.binding.Call(g.call, g.inst, function, []byte(input))
	if err == nil {
		g.Fatalf("%s succeeded with %q", function, out)
	}
	if out != nil {
		g.Errorf("%s failed and has an output of %d bytes", function, len(out))
	}
	return err
}

// runtimeGrants are what Go's runtime needs of the host.
var runtimeGrants = []string{"time_get", "time_sleep", "random_get", "stdio_write"}
