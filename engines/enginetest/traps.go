package enginetest

import (
	"math"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

var trapCases = []testCase{
	{name: "traps/each with its class", run: testTraps},
	{name: "traps/the instance can be called again", run: testCallAfterTrap},
}

// trapping exports a function for each trap.
func trapping() *asm.Module {
	m := new(asm.Module)
	m.Memory("", 1)
	m.Table("", 2)
	callee := m.Func("", toNothing, nil)
	m.Elem(0, callee) // entry 1 stays null
	f64ToI32 := asm.Func(asm.Types(f64), asm.Types(i32))
	m.Func("recurse", toNothing, asm.Code{}.Call(callee+1).Call(callee+1)) // calls itself
	m.Func("unreachable", toNothing, asm.Code{}.Op(asm.Unreachable))
	m.Func("load", i32ToI32, asm.Code{}.LocalGet(0).I32Load(0))
	m.Func("store", asm.Func(asm.Types(i32), nil), asm.Code{}.LocalGet(0).I32Const(1).I32Store(0))
	m.Func("div", binaryI32, asm.Code{}.LocalGet(0).LocalGet(1).Op(asm.I32DivS))
	m.Func("trunc", f64ToI32, asm.Code{}.LocalGet(0).Op(asm.I32TruncF64S))
	m.Func("indirect", asm.Func(asm.Types(i32), nil), asm.Code{}.LocalGet(0).CallIndirect(m.Type(toNothing)))
	m.Func("mistyped", asm.Func(asm.Types(i32), nil), asm.Code{}.LocalGet(0).CallIndirect(m.Type(toI32)).Op(asm.Drop))
	return m
}

func testTraps(t *testing.T, e engines.WasmEngine) {
	inst := load(t, e, trapping())
	for _, c := range []struct {
		class  engines.TrapClass
		fn     string
		params []uint64
	}{
		{engines.TrapUnreachable, "unreachable", nil},
		{engines.TrapMemoryBounds, "load", []uint64{engines.PageSize - 3}},
		{engines.TrapMemoryBounds, "load", []uint64{math.MaxUint32}},
		{engines.TrapMemoryBounds, "store", []uint64{engines.PageSize}},
		{engines.TrapTableBounds, "indirect", []uint64{2}},
		{engines.TrapTableBounds, "indirect", []uint64{1}}, // null
		{engines.TrapIndirectType, "mistyped", []uint64{0}},
		{engines.TrapDivideByZero, "div", []uint64{1, 0}},
		{engines.TrapIntegerOverflow, "div", []uint64{1 << 31, math.MaxUint32}},
		{engines.TrapIntegerOverflow, "trunc", []uint64{engines.ValueF64(1e300).Bits}},
		{engines.TrapInvalidConversion, "trunc", []uint64{engines.ValueF64(math.NaN()).Bits}},
		{engines.TrapStackExhausted, "recurse", nil},
	} {
		_, err := invoke(inst, c.fn, c.params...)
		trap := wantTrap(t, err, c.class)
		if trap.Detail == "" || trap.Cause != nil {
			t.Errorf("%s: %+v, want a detail and no cause", c.fn, trap)
		}
	}
}

func testCallAfterTrap(t *testing.T, e engines.WasmEngine) {
	inst := load(t, e, trapping())
	f := fn(t, inst, "div")
	for range 100 {
		stack := []uint64{1, 0}
		wantTrap(t, f.Call(bg(), stack), engines.TrapDivideByZero)
		stack = []uint64{8, 2}
		if err := f.Call(bg(), stack); err != nil || stack[0] != 4 {
			t.Fatalf("8/2 after a trap = %d, %v", stack[0], err)
		}
	}
}
