package enginetest

import (
	"context"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

var lifecycleCases = []testCase{
	{name: "lifecycle/double close", run: testDoubleClose},
	{name: "lifecycle/use after close", run: testUseAfterClose},
	{name: "lifecycle/use after the engine closed", run: testUseAfterEngineClose},
	{name: "lifecycle/the same binary compiled twice", run: testCompiledTwice},
	{name: "lifecycle/10001 instantiations in flat memory", run: testFlatMemory},
	{name: "lifecycle/concurrent instances", run: testConcurrent},
	{name: "lifecycle/concurrent compilation", run: testConcurrentCompile},
	{name: "lifecycle/garbage collection while in use", run: testGCWhileInUse},
}

func testDoubleClose(t *testing.T, e engines.WasmEngine) {
	mod := compile(t, e, onePage())
	inst := instantiate(t, mod, engines.Imports{})
	closeAll(t, inst, inst, mod, mod, e, e)
}

func testUseAfterClose(t *testing.T, e engines.WasmEngine) {
	m := onePage()
	m.Global("g", mutI32, asm.Code{}.I32Const(0))
	mod := compile(t, e, m)
	inst := instantiate(t, mod, engines.Imports{})
	f, mem := fn(t, inst, "size"), inst.Memory("memory")
	closeAll(t, inst)
	wantIs(t, f.Call(bg(), make([]uint64, 1)), engines.ErrClosed)
	_, err := inst.Func("size")
	wantIs(t, err, engines.ErrClosed)
	if inst.Memory("memory") != nil || inst.Global("g") != nil {
		t.Error("a closed instance still has a memory or a global")
	}
	if _, grown := mem.Grow(1); grown || mem.Size() != 0 || mem.Read(0, make([]byte, 1)) || mem.Write(0, []byte{1}) {
		t.Error("the memory of a closed instance can be used")
	}
	closeAll(t, mod)
	_, err = mod.Instantiate(bg(), engines.Imports{})
	wantIs(t, err, engines.ErrClosed)
	closeAll(t, e)
	_, err = e.Compile(bg(), m.Bytes(), engines.CompileOptions{})
	wantIs(t, err, engines.ErrClosed)
}

func testUseAfterEngineClose(t *testing.T, e engines.WasmEngine) {
	mod := compile(t, e, onePage())
	inst := instantiate(t, mod, engines.Imports{})
	f, mem := fn(t, inst, "size"), inst.Memory("memory")
	closeAll(t, e)
	wantIs(t, f.Call(bg(), make([]uint64, 1)), engines.ErrClosed)
	_, err := mod.Instantiate(bg(), engines.Imports{})
	wantIs(t, err, engines.ErrClosed)
	if mem.Size() != 0 || inst.Memory("memory") != nil {
		t.Error("the memory of a closed engine's instance can be used")
	}
}

func testCompiledTwice(t *testing.T, e engines.WasmEngine) {
	first, second := compile(t, e, onePage()), compile(t, e, onePage())
	inst := instantiate(t, second, engines.Imports{})
	closeAll(t, first)
	want(t, inst, 1, "size")
	want(t, instantiate(t, second, engines.Imports{}), 1, "size")
}

// testFlatMemory instantiates, calls and closes 10,001 times. After a tenth of
// that, the process must not grow by more than flatBound. An engine that kept
// each instance's page of 64 KiB would need 560 MiB, one that kept 8 KiB of each
// would be found; below that is the noise of the race detector's shadow memory.
func testFlatMemory(t *testing.T, e engines.WasmEngine) {
	const n, flatBound = 10001, 64 << 20
	m := new(asm.Module)
	host := m.ImportFunc("env", "f", toNothing)
	m.Memory("memory", 1)
	m.Func("touch", toNothing, asm.Code{}.I32Const(0).I32Const(1).I32Store(0).Call(host))
	mod := compile(t, e, m)
	calls := 0
	imports := env(engines.HostFunction{
		Name: "f", Type: toNothing,
		Call: func(context.Context, engines.Caller, []uint64) error { calls++; return nil },
	})
	var before uint64
	for i := range n {
		inst, err := mod.Instantiate(bg(), imports)
		if err != nil {
			t.Fatalf("instance %d: %v", i, err)
		}
		if _, err := invoke(inst, "touch"); err != nil {
			t.Fatalf("instance %d: %v", i, err)
		}
		closeAll(t, inst)
		if i == n/10 {
			before = footprint()
		}
	}
	if calls != n {
		t.Errorf("the host function ran %d times, want %d", calls, n)
	}
	after := footprint()
	t.Logf("%d KiB after %d instances, %d KiB after %d", before>>10, n/10, after>>10, n)
	if after > before+flatBound {
		t.Errorf("memory grew from %d to %d KiB over %d instances; %d KiB are allowed", before>>10, after>>10, n-n/10, flatBound>>10)
	}
}

// footprint is what the process holds: its resident memory where the system
// tells it, so that memory of an engine in another language counts, else Go's
// heap.
func footprint() uint64 {
	debug.FreeOSMemory()
	if rss, ok := residentMemory(); ok {
		return rss
	}
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

func testConcurrent(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	host := m.ImportFunc("env", "inc", i32ToI32)
	m.Memory("memory", 1)
	m.Func("run", i32ToI32, asm.Code{}.I32Const(0).LocalGet(0).Call(host).I32Store(0).I32Const(0).I32Load(0))
	mod := compile(t, e, m)
	imports := env(engines.HostFunction{
		Name: "inc", Type: i32ToI32,
		Call: func(_ context.Context, _ engines.Caller, stack []uint64) error { stack[0]++; return nil },
	})
	parallel(t, func(g int) error {
		for i := range 50 {
			inst, err := mod.Instantiate(bg(), imports)
			if err != nil {
				return err
			}
			got, err := invoke(inst, "run", uint64(g*1000+i))
			if err == nil && got[0] != uint64(g*1000+i+1) {
				t.Errorf("goroutine %d got %d for %d", g, got[0], g*1000+i)
			}
			if err := inst.Close(); err != nil {
				return err
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func testConcurrentCompile(t *testing.T, e engines.WasmEngine) {
	parallel(t, func(g int) error {
		m := new(asm.Module)
		m.Func("id", toI32, asm.Code{}.I32Const(int32(g%2))) // pairs compile the same binary
		for range 10 {
			mod, err := e.Compile(bg(), m.Bytes(), engines.CompileOptions{})
			if err != nil {
				return err
			}
			inst, err := mod.Instantiate(bg(), engines.Imports{})
			if err != nil {
				return err
			}
			if got, err := invoke(inst, "id"); err != nil || got[0] != uint64(g%2) {
				t.Errorf("goroutine %d: id = %d, %v", g, got, err)
			}
			closeAll(t, inst, mod)
		}
		return nil
	})
}

// parallel runs f in eight goroutines and waits for them.
func parallel(t *testing.T, f func(g int) error) {
	t.Helper()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			if err := f(g); err != nil {
				t.Errorf("goroutine %d: %v", g, err)
			}
		})
	}
	wg.Wait()
}

// Only the Func is held here; engine, module and instance must not be collected
// beneath it.
func testGCWhileInUse(t *testing.T, e engines.WasmEngine) {
	m := onePage()
	f := func() engines.Func {
		mod, err := e.Compile(bg(), m.Bytes(), engines.CompileOptions{})
		if err != nil {
			t.Fatal(err)
		}
		inst, err := mod.Instantiate(bg(), engines.Imports{})
		if err != nil {
			t.Fatal(err)
		}
		return fn(t, inst, "size")
	}()
	for range 20 {
		runtime.GC()
		stack := []uint64{0}
		if err := f.Call(bg(), stack); err != nil || stack[0] != 1 {
			t.Fatalf("size = %d, %v", stack[0], err)
		}
	}
}
