package enginetest

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

var limitCases = []testCase{
	{name: "interrupt/endless loop", needs: "Interrupt", run: testInterruptLoop},
	{name: "interrupt/endless start function", needs: "Interrupt", run: testInterruptStart},
	{name: "interrupt/endless loop in a lent function", needs: "Interrupt", run: testInterruptLent},
	{name: "interrupt/endless loop below a call back", needs: "Interrupt", run: testInterruptReentry},
	{name: "interrupt/context done before the call", needs: "Interrupt", run: testInterruptBefore},
	{name: "interrupt/after an interruption", needs: "Interrupt", run: testAfterInterrupt},
	{name: "interrupt/is refused", needs: "Interrupt", refusal: true, run: testInterruptRefused},
	{name: "limit/memory", needs: "MemoryLimit", run: testMemoryLimit},
	{name: "limit/a lent memory keeps its lender's", needs: "MemoryLimit", run: testMemoryLimitLent},
	{name: "limit/memory is refused", needs: "MemoryLimit", refusal: true, run: testMemoryLimitRefused},
}

var interruptible = engines.CompileOptions{Interruptible: true}

// soon is long enough for a guest to begin, and waited out in each case.
const soon = 20 * time.Millisecond

func loop() asm.Code { return asm.Code{}.Loop().Br(0).End() }

func spinning() *asm.Module {
	m := new(asm.Module)
	m.Func("spin", toNothing, loop())
	m.Global("runs", mutI32, asm.Code{}.I32Const(0))
	m.Func("count", toNothing, asm.Code{}.GlobalGet(0).I32Const(1).Op(asm.I32Add).GlobalSet(0))
	return m
}

func testInterruptLoop(t *testing.T, e engines.WasmEngine) {
	mod := compile(t, e, spinning(), interruptible)

	ctx, cancel := context.WithTimeout(bg(), soon)
	defer cancel()
	err := fn(t, instantiate(t, mod, engines.Imports{}), "spin").Call(ctx, nil)
	wantTrap(t, err, engines.TrapInterrupted)
	wantIs(t, err, context.DeadlineExceeded)

	ctx, cancel = context.WithCancel(bg())
	defer time.AfterFunc(soon, cancel).Stop()
	err = fn(t, instantiate(t, mod, engines.Imports{}), "spin").Call(ctx, nil)
	wantTrap(t, err, engines.TrapInterrupted)
	wantIs(t, err, context.Canceled)
}

func testInterruptStart(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	m.Start(m.Func("", toNothing, loop()))
	mod := compile(t, e, m, interruptible)
	ctx, cancel := context.WithTimeout(bg(), soon)
	defer cancel()
	_, err := mod.Instantiate(ctx, engines.Imports{})
	wantTrap(t, err, engines.TrapInterrupted)
	wantIs(t, err, context.DeadlineExceeded)
}

func testInterruptLent(t *testing.T, e engines.WasmEngine) {
	lender := instantiate(t, compile(t, e, spinning(), interruptible), engines.Imports{})
	m := new(asm.Module)
	spin := m.ImportFunc("lib", "spin", toNothing)
	m.Func("run", toNothing, asm.Code{}.Call(spin))
	m.Export("again", engines.KindFunc, spin)
	for _, name := range []string{"run", "again"} {
		inst := instantiate(t, compile(t, e, m, interruptible), lend(lender))
		ctx, cancel := context.WithTimeout(bg(), soon)
		defer cancel()
		wantTrap(t, fn(t, inst, name).Call(ctx, nil), engines.TrapInterrupted)
		lender = instantiate(t, compile(t, e, spinning(), interruptible), engines.Imports{})
	}
}

func testInterruptReentry(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	host := m.ImportFunc("env", "back", toNothing)
	m.Func("outer", toNothing, asm.Code{}.Call(host))
	m.Func("spin", toNothing, loop())
	var spin engines.Func
	inst := instantiate(t, compile(t, e, m, interruptible), env(engines.HostFunction{
		Name: "back", Type: toNothing,
		Call: func(ctx context.Context, _ engines.Caller, _ []uint64) error { return spin.Call(ctx, nil) },
	}))
	spin = fn(t, inst, "spin")
	ctx, cancel := context.WithTimeout(bg(), soon)
	defer cancel()
	err := fn(t, inst, "outer").Call(ctx, nil)
	wantTrap(t, err, engines.TrapInterrupted)
	wantIs(t, err, context.DeadlineExceeded)
}

func testInterruptBefore(t *testing.T, e engines.WasmEngine) {
	mod := compile(t, e, spinning(), interruptible)
	inst := instantiate(t, mod, engines.Imports{})
	count := fn(t, inst, "count")
	ctx, cancel := context.WithCancel(bg())
	cancel()
	err := count.Call(ctx, nil)
	wantTrap(t, err, engines.TrapInterrupted)
	wantIs(t, err, context.Canceled)
	if n := inst.Global("runs").Get(); n != 0 {
		t.Errorf("the guest ran %d times with a context that was done", n)
	}
	// Nothing ran, so nothing is spoilt.
	if err := count.Call(bg(), nil); err != nil || inst.Global("runs").Get() != 1 {
		t.Errorf("the next call: %v, and the guest ran %d times", err, inst.Global("runs").Get())
	}
	_, err = mod.Instantiate(ctx, engines.Imports{})
	wantTrap(t, err, engines.TrapInterrupted)
}

func testAfterInterrupt(t *testing.T, e engines.WasmEngine) {
	mod := compile(t, e, spinning(), interruptible)
	inst, other := instantiate(t, mod, engines.Imports{}), instantiate(t, mod, engines.Imports{})
	spin := fn(t, inst, "spin")
	ctx, cancel := context.WithTimeout(bg(), soon)
	defer cancel()
	wantTrap(t, spin.Call(ctx, nil), engines.TrapInterrupted)

	ctx, cancel = context.WithTimeout(bg(), soon)
	defer cancel()
	err := spin.Call(ctx, nil)
	if trap, ok := errors.AsType[*engines.Trap](err); !ok && !errors.Is(err, engines.ErrClosed) {
		t.Errorf("a call after an interruption: %v (%v), want a trap or ErrClosed", err, trap)
	}
	// Another instance of the module is not touched.
	if err := fn(t, other, "count").Call(bg(), nil); err != nil {
		t.Errorf("another instance: %v", err)
	}
}

func testInterruptRefused(t *testing.T, e engines.WasmEngine) {
	_, err := e.Compile(bg(), spinning().Bytes(), interruptible)
	wantAs[*engines.UnsupportedError](t, err)
}

func testMemoryLimit(t *testing.T, e engines.WasmEngine) {
	memory := func(min uint32, max ...uint32) *asm.Module {
		m := new(asm.Module)
		m.Memory("memory", min, max...)
		m.Func("grow", i32ToI32, asm.Code{}.LocalGet(0).MemoryGrow())
		m.Data(0, "x") // so that sections after the memory's are there
		return m
	}
	for name, m := range map[string]*asm.Module{"no maximum": memory(1), "larger maximum": memory(1, 1000)} {
		inst := instantiate(t, compile(t, e, m, engines.CompileOptions{MemoryLimitPages: 3}), engines.Imports{})
		want(t, inst, 1, "grow", 1)
		want(t, inst, math.MaxUint32, "grow", 2)
		mem := inst.Memory("memory")
		if _, ok := mem.Grow(2); ok {
			t.Errorf("%s: the host grew the memory beyond its limit", name)
		}
		if prev, ok := mem.Grow(1); !ok || prev != 2 {
			t.Errorf("%s: Grow(1) up to the limit = %d, %v", name, prev, ok)
		}
		want(t, inst, math.MaxUint32, "grow", 1)
	}

	// A maximum below the limit stays.
	inst := instantiate(t, compile(t, e, memory(1, 2), engines.CompileOptions{MemoryLimitPages: 3}), engines.Imports{})
	want(t, inst, 1, "grow", 1)
	want(t, inst, math.MaxUint32, "grow", 1)

	// So does a module that the limit has nothing to say about.
	for _, limit := range []uint32{0, 65535, 65536, math.MaxUint32} {
		compile(t, e, memory(1), engines.CompileOptions{MemoryLimitPages: limit})
	}
	compile(t, e, new(asm.Module), engines.CompileOptions{MemoryLimitPages: 1})

	_, err := e.Compile(bg(), memory(4).Bytes(), engines.CompileOptions{MemoryLimitPages: 3})
	wantAs[*engines.CompileError](t, err)
}

func testMemoryLimitLent(t *testing.T, e engines.WasmEngine) {
	limit := engines.CompileOptions{MemoryLimitPages: 2}
	lender := new(asm.Module)
	lender.Memory("memory", 1)
	m := new(asm.Module)
	m.ImportMemory("lib", "memory", 1)
	m.Func("grow", i32ToI32, asm.Code{}.LocalGet(0).MemoryGrow())
	inst := instantiate(t, compile(t, e, m, limit), lend(instantiate(t, compile(t, e, lender, limit), engines.Imports{})))
	want(t, inst, math.MaxUint32, "grow", 2)
	want(t, inst, 1, "grow", 1)
}

func testMemoryLimitRefused(t *testing.T, e engines.WasmEngine) {
	_, err := e.Compile(bg(), onePage().Bytes(), engines.CompileOptions{MemoryLimitPages: 1})
	wantAs[*engines.UnsupportedError](t, err)
}
