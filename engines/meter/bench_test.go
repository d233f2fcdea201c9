package meter_test

import (
	"context"
	"math"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/engines/enginetest/versus"
)

// Opcodes of the programs that asm does not name.
const (
	i32LeU    = 0x4d
	i32GeU    = 0x4f
	i32And    = 0x71
	i32ShrU   = 0x76
	opElse    = 0x05
	i64Mul    = 0x7e
	i64Xor    = 0x85
	i32Load8U = 0x2d
)

var (
	i32, i64 = engines.I32, engines.I64
	i32ToI32 = asm.Func(asm.Types(i32), asm.Types(i32))
)

// programs exports the functions that are measured, each from i32 to i32.
func programs() []byte {
	m := new(asm.Module)
	m.Memory("memory", 32)
	i32ToI64 := asm.Func(asm.Types(i32), asm.Types(i64))
	dec := func(c asm.Code) asm.Code {
		return c.LocalGet(0).I32Const(1).Op(asm.I32Sub).Op(0x22, 0) // local.tee 0
	}
	// for n > 0 { n-- }
	m.Func("tight", i32ToI32, dec(asm.Code{}.Loop()).BrIf(0).End().LocalGet(0))
	// for n > 0 { n--; sum += memory[n] }, the test at the head
	m.Func("bytesum", i32ToI32, dec(asm.Code{}.Block().Loop().LocalGet(0).Op(asm.I32Eqz).BrIf(1)).
		Op(i32Load8U, 0, 0).LocalGet(1).Op(asm.I32Add).LocalSet(1).Br(0).End().End().LocalGet(1), i32)
	m.Func("multiply", i32ToI64, dec(asm.Code{}.I64Const(1).LocalSet(1).Loop().
		LocalGet(1).I64Const(6364136223846793005).Op(i64Mul).I64Const(1442695040888963407).Op(asm.I64Add).LocalSet(1)).
		BrIf(0).End().LocalGet(1), i64)
	// fib(n) = n < 2 ? n : fib(n-1) + fib(n-2)
	fib := uint32(3)
	m.Func("fib", i32ToI32, asm.Code{}.LocalGet(0).I32Const(2).Op(asm.I32LtU).If().LocalGet(0).Op(asm.Return).End().
		LocalGet(0).I32Const(1).Op(asm.I32Sub).Call(fib).LocalGet(0).I32Const(2).Op(asm.I32Sub).Call(fib).Op(asm.I32Add))
	// for n > 0 { n -= 4; memory[n+1MiB] = memory[n] }
	m.Func("memory4", i32ToI32, asm.Code{}.Loop().LocalGet(0).I32Const(4).Op(asm.I32Sub).Op(0x22, 0).
		LocalGet(0).I32Load(0).I32Store(1<<20).LocalGet(0).BrIf(0).End().LocalGet(0))
	// nested: for n > 0 { n--; for i = 8; i > 0; i-- { sum += i*n } }
	m.Func("nested", i32ToI32, dec(asm.Code{}.Loop().I32Const(8).LocalSet(1).
		Loop().LocalGet(2).LocalGet(1).LocalGet(0).Op(asm.I32Mul, asm.I32Add).LocalSet(2).
		LocalGet(1).I32Const(1).Op(asm.I32Sub).Op(0x22, 1).BrIf(0).End()).
		BrIf(0).End().LocalGet(2), i32, i32)
	// a leaf called in a loop
	leaf := m.Func("", asm.Func(asm.Types(i32, i32), asm.Types(i32)), asm.Code{}.LocalGet(0).LocalGet(1).Op(asm.I32Add).I32Const(7).Op(asm.I32Mul))
	m.Func("leafcalls", i32ToI32, dec(asm.Code{}.Loop().LocalGet(1).LocalGet(0).Call(leaf).LocalSet(1)).BrIf(0).End().LocalGet(1), i32)
	// a function that branches, called in a loop: sum += n & 1 ? 3*n : n >> 1
	step := m.Func("", i32ToI32, asm.Code{}.LocalGet(0).I32Const(1).Op(i32And).Op(0x04, 0x7f). // if (result i32)
													LocalGet(0).I32Const(3).Op(asm.I32Mul).Op(opElse).LocalGet(0).I32Const(1).Op(i32ShrU).End())
	m.Func("calls", i32ToI32, dec(asm.Code{}.Loop().LocalGet(1).LocalGet(0).Call(step).Op(asm.I32Add).LocalSet(1)).BrIf(0).End().LocalGet(1), i32)
	// sieve of Eratosthenes over n bytes: stores, branches, two loops
	m.Func("sieve", i32ToI32, asm.Code{}.I32Const(2).LocalSet(1).
		Loop().
		LocalGet(1).Op(i32Load8U, 0, 0).Op(asm.I32Eqz).If().
		LocalGet(3).I32Const(1).Op(asm.I32Add).LocalSet(3).
		LocalGet(1).LocalGet(1).Op(asm.I32Add).LocalSet(2).
		Block().Loop().LocalGet(2).LocalGet(0).Op(i32GeU).BrIf(1).
		LocalGet(2).I32Const(1).Op(0x3a, 0, 0). // i32.store8
		LocalGet(2).LocalGet(1).Op(asm.I32Add).LocalSet(2).Br(0).End().End().
		End().
		LocalGet(1).I32Const(1).Op(asm.I32Add).Op(0x22, 1).LocalGet(0).Op(asm.I32LtU).BrIf(0).
		End().LocalGet(3), i32, i32, i32)
	// memory.copy of short and unknown length
	m.Func("copies", i32ToI32, dec(asm.Code{}.Loop().
		I32Const(4096).I32Const(8192).LocalGet(0).I32Const(63).Op(i32And).Op(0xfc, 10, 0, 0)). // i32.and, memory.copy
		BrIf(0).End().LocalGet(0))
	return m.Bytes()
}

func instance(t testing.TB, e engines.WasmEngine, wasm []byte, opts engines.CompileOptions) engines.Instance {
	t.Helper()
	t.Cleanup(func() { _ = e.Close() })
	mod, err := e.Compile(t.Context(), wasm, opts)
	if err != nil {
		t.Fatal(err)
	}
	inst, err := mod.Instantiate(t.Context(), engines.Imports{})
	if err != nil {
		t.Fatal(err)
	}
	return inst
}

func function(t testing.TB, inst engines.Instance, name string) engines.Func {
	t.Helper()
	f, err := inst.Func(name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// rival is a way to run the programs: load makes what runs the export of a name.
type rival struct {
	name string
	load func(testing.TB) func(name string) func(n uint64) error
}

// with is an engine of the contract, with options.
func with(name string, engine func(testing.TB) engines.WasmEngine, opts engines.CompileOptions) rival {
	return rival{name, func(t testing.TB) func(string) func(uint64) error {
		inst := instance(t, engine(t), programs(), opts)
		ctx, cancel := context.WithCancel(t.Context())
		t.Cleanup(cancel)
		stack := make([]uint64, 1)
		return func(name string) func(uint64) error {
			f := function(t, inst, name)
			return func(n uint64) error {
				stack[0] = n
				return f.Call(ctx, stack)
			}
		}
	}}
}

// limits are modules with none, metered ones, and those that an engine
// interrupts by its own means.
func limits(bare, metered func(testing.TB) engines.WasmEngine) []rival {
	return []rival{
		with("bare", bare, engines.CompileOptions{}),
		with("deadline", metered, engines.CompileOptions{Interruptible: true}),
		with("fuel", metered, engines.CompileOptions{Fuel: math.MaxInt64}),
		with("depth", metered, engines.CompileOptions{Interruptible: true, CallDepth: 10_000}),
	}
}

// BenchmarkWazero compares modules that are metered with the same unmetered,
// and with wazero's own way to interrupt, WithCloseOnContextDone.
func BenchmarkWazero(b *testing.B) {
	benchmark(b, append(limits(bare, metered), with("close-on-context-done", bare, engines.CompileOptions{Interruptible: true})))
}

func benchmark(b *testing.B, rivals []rival) {
	loaded := make([]func(string) func(uint64) error, len(rivals))
	for i, r := range rivals {
		loaded[i] = r.load(b)
	}
	for _, p := range []struct {
		name string
		n    uint64
	}{
		{"tight", 1e6}, {"bytesum", 1e6}, {"multiply", 1e6}, {"fib", 25}, {"memory4", 1 << 20}, {"nested", 1e5},
		{"leafcalls", 1e6}, {"calls", 1e6}, {"sieve", 1 << 20}, {"copies", 1e5},
	} {
		b.Run(p.name, func(b *testing.B) {
			list := make([]versus.Rival, len(rivals))
			for i, r := range rivals {
				run := loaded[i](p.name)
				list[i] = versus.Rival{Name: r.name, Do: func() error { return run(p.n) }}
			}
			versus.Run(b, list...)
		})
	}
}

// BenchmarkCall is the call of a function that does nothing.
func BenchmarkCall(b *testing.B) {
	m := new(asm.Module)
	m.Func("id", i32ToI32, asm.Code{}.LocalGet(0))
	for _, v := range []struct {
		name   string
		engine func(testing.TB) engines.WasmEngine
		opts   engines.CompileOptions
	}{
		{"bare", bare, engines.CompileOptions{}},
		{"deadline", metered, engines.CompileOptions{Interruptible: true}},
		{"fuel", metered, engines.CompileOptions{Fuel: 1 << 20}},
		{"closeOnContextDone", bare, engines.CompileOptions{Interruptible: true}},
	} {
		b.Run(v.name, func(b *testing.B) {
			f := function(b, instance(b, v.engine(b), m.Bytes(), v.opts), "id")
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			stack := []uint64{1}
			b.ReportAllocs()
			for b.Loop() {
				if err := f.Call(ctx, stack); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
