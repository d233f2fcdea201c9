//go:build linux || darwin

package worker_test

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

var (
	i32       = engines.I32
	binaryI32 = asm.Func(asm.Types(i32, i32), asm.Types(i32))
	i32x2     = asm.Func(asm.Types(i32, i32), nil)
	toNothing = asm.Func(nil, nil)
)

// sample exports add, and call, which calls the host's add, and read, which
// calls a host function that reads 64 bytes of memory and writes as many.
func sample() []byte {
	m := new(asm.Module)
	host := m.ImportFunc("env", "add", binaryI32)
	copying := m.ImportFunc("env", "copy", i32x2)
	m.Func("add", binaryI32, asm.Code{}.LocalGet(0).LocalGet(1).Op(asm.I32Add))
	m.Func("call", binaryI32, asm.Code{}.LocalGet(0).LocalGet(1).Call(host))
	m.Func("copy", toNothing, asm.Code{}.I32Const(8).I32Const(64).Call(copying))
	m.Memory("memory", 1)
	return m.Bytes()
}

func sampleHost() engines.Imports {
	return engines.Imports{Host: map[string]*engines.HostModule{"env": {Functions: []engines.HostFunction{
		{Name: "add", Type: binaryI32, Call: func(_ context.Context, _ engines.Caller, stack []uint64) error {
			stack[0] += stack[1]
			return nil
		}},
		{Name: "copy", Type: i32x2, Call: func(_ context.Context, c engines.Caller, stack []uint64) error {
			b := make([]byte, stack[1])
			if m := c.Memory(); !m.Read(stack[0], b) || !m.Write(100, b) {
				return io.ErrShortBuffer
			}
			return nil
		}},
	}}}}
}

// inProcess is the engine without a worker.
func inProcess(t testing.TB) engines.WasmEngine {
	t.Helper()
	e, err := newMetered()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func load(t testing.TB, e engines.WasmEngine, wasm []byte, imports engines.Imports) engines.Instance {
	t.Helper()
	mod, err := e.Compile(t.Context(), wasm, engines.CompileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	inst, err := mod.Instantiate(t.Context(), imports)
	if err != nil {
		t.Fatal(err)
	}
	return inst
}

// BenchmarkCall is a call of add, a call that makes one host call, and one
// whose host call reads and writes memory: through a worker and in process,
// beside a bare round trip of 16 bytes between two processes.
func BenchmarkCall(b *testing.B) {
	for _, engine := range []struct {
		name string
		make func(testing.TB) engines.WasmEngine
	}{
		{"worker", func(t testing.TB) engines.WasmEngine { return newEngine(t, config(t)) }},
		{"inprocess", inProcess},
	} {
		inst := load(b, engine.make(b), sample(), sampleHost())
		for _, name := range []string{"add", "call", "copy"} {
			f, err := inst.Func(name)
			if err != nil {
				b.Fatal(err)
			}
			cancellable, cancel := context.WithCancel(context.Background())
			defer cancel()
			for ctxName, ctx := range map[string]context.Context{"": context.Background(), "/cancellable": cancellable} {
				b.Run(engine.name+"/"+name+ctxName, func(b *testing.B) {
					b.ReportAllocs()
					stack := make([]uint64, 2)
					for b.Loop() {
						if err := f.Call(ctx, stack); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
	b.Run("socket", benchmarkSocket)
}

// benchmarkSocket is what the system takes for a round trip.
func benchmarkSocket(b *testing.B) {
	path := filepath.Join(b.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	echo := command(b, "echo", path)
	if err := echo.Start(); err != nil {
		b.Fatal(err)
	}
	defer echo.Wait()
	c, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 16)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
}

// echoSocket sends back what it reads.
func echoSocket(path string) {
	c, err := net.Dial("unix", path)
	if err != nil {
		os.Exit(1)
	}
	_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
}

// BenchmarkPristine is a call of an instance that is as new: one that is made
// from a snapshot and closed, and one that is restored.
func BenchmarkPristine(b *testing.B) {
	for _, engine := range []struct {
		name string
		make func(testing.TB) engines.WasmEngine
	}{
		{"worker", func(t testing.TB) engines.WasmEngine { return newEngine(t, config(t)) }},
		{"inprocess", inProcess},
	} {
		mod, first := compileTally(b, engine.make(b), engines.CompileOptions{Snapshots: true, Interruptible: true})
		snap := capture(b, mod, first)
		b.Run(engine.name+"/new", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				inst := revive(b, snap)
				next(b, inst)
				if err := inst.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(engine.name+"/restored", func(b *testing.B) {
			inst := revive(b, snap)
			b.ReportAllocs()
			for b.Loop() {
				next(b, inst)
				if !snap.Restore(inst) {
					b.Fatal("not restored")
				}
			}
		})
	}
}
