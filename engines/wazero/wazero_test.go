package wazero_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"testing"
	"time"

	upstream "github.com/tetratelabs/wazero"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/engines/wazero"
)

func newEngine(t testing.TB) engines.WasmEngine {
	t.Helper()
	e, err := wazero.New()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestConformance(t *testing.T) { enginetest.Test(t, newEngine) }

// Info's version is written by hand; go.mod says which it must be.
func TestVersion(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	want := regexp.MustCompile(`github.com/tetratelabs/wazero v(\S+)`).FindSubmatch(mod)
	e := newEngine(t)
	defer e.Close()
	if got := e.Info().Version; want == nil || got != string(want[1]) {
		t.Errorf("Info().Version = %q, go.mod requires %q", got, want)
	}
}

var (
	i32       = engines.I32
	binaryI32 = asm.Func(asm.Types(i32, i32), asm.Types(i32))
)

// adder exports add, and call, which calls the host's add.
func adder() []byte {
	m := new(asm.Module)
	host := m.ImportFunc("env", "add", binaryI32)
	m.Func("add", binaryI32, asm.Code{}.LocalGet(0).LocalGet(1).Op(asm.I32Add))
	m.Func("call", binaryI32, asm.Code{}.LocalGet(0).LocalGet(1).Call(host))
	m.Memory("memory", 1)
	return m.Bytes()
}

var hostAdd = &engines.HostModule{Functions: []engines.HostFunction{{
	Name: "add", Type: binaryI32,
	Call: func(_ context.Context, c engines.Caller, stack []uint64) error {
		if c.Memory().Size() == 0 {
			return errors.New("no memory")
		}
		stack[0] += stack[1]
		return nil
	},
}}}

func function(t testing.TB, name string) engines.Func {
	t.Helper()
	e := newEngine(t)
	t.Cleanup(func() { _ = e.Close() })
	mod, err := e.Compile(t.Context(), adder(), engines.CompileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	inst, err := mod.Instantiate(t.Context(), engines.Imports{Host: map[string]*engines.HostModule{"env": hostAdd}})
	if err != nil {
		t.Fatal(err)
	}
	f, err := inst.Func(name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// A call allocates nothing, nor does a host function that uses memory.
func TestCallAllocatesNothing(t *testing.T) {
	for _, name := range []string{"add", "call"} {
		f := function(t, name)
		stack := make([]uint64, 2)
		if n := testing.AllocsPerRun(100, func() {
			stack[0], stack[1] = 1, 2
			if err := f.Call(context.Background(), stack); err != nil || stack[0] != 3 {
				t.Fatalf("%s = %d, %v", name, stack[0], err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations a call", name, n)
		}
	}
}

// The largest memory that WebAssembly allows would read as none.
func TestLargestMemory(t *testing.T) {
	e := newEngine(t)
	defer e.Close()
	m := new(asm.Module)
	m.Memory("memory", 1)
	m.Func("grow", asm.Func(asm.Types(i32), asm.Types(i32)), asm.Code{}.LocalGet(0).MemoryGrow())
	for _, limit := range []uint32{0, 65536} {
		mod, err := e.Compile(t.Context(), m.Bytes(), engines.CompileOptions{MemoryLimitPages: limit})
		if err != nil {
			t.Fatal(err)
		}
		inst, err := mod.Instantiate(t.Context(), engines.Imports{})
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := inst.Memory("memory").Grow(65535); ok {
			t.Errorf("limit %d: the memory grew to 65,536 pages and reports %d bytes", limit, inst.Memory("memory").Size())
		}
	}
}

// Instances of modules compiled with different options live in different
// runtimes and do not link; the error says what to do.
func TestLinkAcrossOptions(t *testing.T) {
	e := newEngine(t)
	defer e.Close()
	lib := new(asm.Module)
	lib.Func("f", asm.Func(nil, nil), nil)
	libMod, err := e.Compile(t.Context(), lib.Bytes(), engines.CompileOptions{Interruptible: true})
	if err != nil {
		t.Fatal(err)
	}
	lender, err := libMod.Instantiate(t.Context(), engines.Imports{})
	if err != nil {
		t.Fatal(err)
	}
	m := new(asm.Module)
	m.ImportFunc("lib", "f", asm.Func(nil, nil))
	mod, err := e.Compile(t.Context(), m.Bytes(), engines.CompileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = mod.Instantiate(t.Context(), engines.Imports{Instances: map[string]engines.Instance{"lib": lender}})
	if link, ok := errors.AsType[*engines.LinkError](err); !ok || link.Name != "f" {
		t.Errorf("Instantiate = %v, want a LinkError that names f", err)
	}
}

// What is derived from a host module goes with it, though the runtime stays.
func TestHostModulesAreCollected(t *testing.T) {
	e := newEngine(t)
	defer e.Close()
	mod, err := e.Compile(t.Context(), adder(), engines.CompileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	for i := range 2200 {
		hm := *hostAdd // another address each time
		inst, err := mod.Instantiate(t.Context(), engines.Imports{Host: map[string]*engines.HostModule{"env": &hm}})
		if err != nil {
			t.Fatal(err)
		}
		if err := inst.Close(); err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 {
			runtime.GC()
		}
		if i == 200 {
			runtime.ReadMemStats(&before)
		}
	}
	// What a collection finds is freed after it, by a goroutine of the runtime's.
	for range 100 {
		runtime.GC()
		runtime.ReadMemStats(&after)
		if after.HeapAlloc < before.HeapAlloc+8<<20 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("the heap grew from %d to %d KiB", before.HeapAlloc>>10, after.HeapAlloc>>10)
}

// BenchmarkCall compares a call through the adapter with a call of wazero.
func BenchmarkCall(b *testing.B) {
	ctx := context.Background()
	b.Run("adapter", func(b *testing.B) {
		f := function(b, "add")
		stack := []uint64{1, 2}
		b.ReportAllocs()
		for b.Loop() {
			if err := f.Call(ctx, stack); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("upstream", func(b *testing.B) {
		m := new(asm.Module)
		m.Func("add", binaryI32, asm.Code{}.LocalGet(0).LocalGet(1).Op(asm.I32Add))
		rt := upstream.NewRuntime(ctx)
		defer rt.Close(ctx)
		mod, err := rt.Instantiate(ctx, m.Bytes())
		if err != nil {
			b.Fatal(err)
		}
		f := mod.ExportedFunction("add")
		stack := []uint64{1, 2}
		b.ReportAllocs()
		for b.Loop() {
			if err := f.CallWithStack(ctx, stack); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkHostCall is a call of the guest that calls the host.
func BenchmarkHostCall(b *testing.B) {
	f := function(b, "call")
	stack := []uint64{1, 2}
	b.ReportAllocs()
	for b.Loop() {
		if err := f.Call(context.Background(), stack); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkInstantiate instantiates and closes a small module with host functions.
func BenchmarkInstantiate(b *testing.B) {
	e := newEngine(b)
	defer e.Close()
	mod, err := e.Compile(b.Context(), adder(), engines.CompileOptions{})
	if err != nil {
		b.Fatal(err)
	}
	imports := engines.Imports{Host: map[string]*engines.HostModule{"env": hostAdd}}
	b.ReportAllocs()
	for b.Loop() {
		inst, err := mod.Instantiate(b.Context(), imports)
		if err != nil {
			b.Fatal(err)
		}
		if err := inst.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzCompile feeds any bytes: an error or a module that can be instantiated or
// not, and never a panic.
func FuzzCompile(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte("\x00asm\x0d\x00\x01\x00"))
	f.Add(adder())
	f.Fuzz(func(t *testing.T, wasm []byte) {
		e := newEngine(t)
		defer e.Close()
		mod, err := e.Compile(t.Context(), wasm, engines.CompileOptions{MemoryLimitPages: 16, Interruptible: true})
		if err != nil {
			if _, ok := errors.AsType[*engines.CompileError](err); !ok {
				t.Fatalf("Compile = %v (%T), want a CompileError", err, err)
			}
			return
		}
		mod.Imports()
		mod.Exports()
	})
}

func Example() {
	ctx := context.Background()
	e, err := wazero.New()
	if err != nil {
		panic(err)
	}
	defer e.Close()

	// A guest that adds by asking the host.
	mod, err := e.Compile(ctx, adder(), engines.CompileOptions{MemoryLimitPages: 16})
	if err != nil {
		panic(err)
	}
	defer mod.Close()
	inst, err := mod.Instantiate(ctx, engines.Imports{Host: map[string]*engines.HostModule{"env": hostAdd}})
	if err != nil {
		panic(err)
	}
	defer inst.Close()
	call, err := inst.Func("call")
	if err != nil {
		panic(err)
	}
	stack := []uint64{engines.ValueI32(40).Bits, engines.ValueI32(2).Bits}
	if err := call.Call(ctx, stack); err != nil {
		panic(err)
	}
	fmt.Println(engines.Value{Type: engines.I32, Bits: stack[0]})
	// Output: 42
}
