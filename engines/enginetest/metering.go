package enginetest

import (
	"math"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

var meteringCases = []testCase{
	{name: "fuel/refused", needs: "Metering", refusal: true, run: testMeteringRefused},
	{name: "fuel/the same to the unit on every engine", needs: "Metering", run: testFuelUnits},
	{name: "fuel/a call succeeds if and only if it may spend what it spends", needs: "Metering", run: testFuelExact},
	{name: "fuel/start function", needs: "Metering", run: testFuelStart},
	{name: "fuel/each call has its own", needs: "Metering", run: testFuelEachCall},
	{name: "depth/of functions that call themselves", needs: "Metering", run: testCallDepth},
}

// spending has functions of known cost, by the rules of package meter: an
// instruction costs a unit, block, else and end nothing, the turn of a loop one
// more than its instructions, and 8 bytes or one table entry a unit.
func spending() *asm.Module {
	m := new(asm.Module)
	m.Memory("memory", 2)
	m.Func("add", i32ToI32, asm.Code{}.LocalGet(0).LocalGet(0).Op(asm.I32Add))
	m.Func("count", i32ToI32, asm.Code{}.
		Loop().LocalGet(0).I32Const(1).Op(asm.I32Sub).Op(0x22, 0).BrIf(0).End(). // local.tee
		LocalGet(0))
	m.Func("choose", i32ToI32, asm.Code{}.
		Block().LocalGet(0).BrIf(0).Op(asm.Nop, asm.Nop).End().LocalGet(0))
	m.Func("call", i32ToI32, asm.Code{}.LocalGet(0).Call(0))
	m.Func("fill", i32ToI32, asm.Code{}.I32Const(0).I32Const(7).LocalGet(0).Op(0xfc, 11, 0).LocalGet(0)) // memory.fill
	return m
}

var fuelCosts = []struct {
	fn   string
	n    uint64
	cost uint64
}{
	{"add", 5, 3},
	{"count", 1, 6 + 1},
	{"count", 2, 12 + 1},
	{"count", 100_000, 600_000 + 1},
	{"choose", 1, 2 + 1},
	{"choose", 0, 2 + 2 + 1},
	{"call", 1, 2 + 3},
	{"fill", 0, 5},
	{"fill", 64, 5 + 8},
	{"fill", 131_072, 5 + 131_072/8},
}

func testFuelUnits(t *testing.T, e engines.WasmEngine) {
	inst := instantiate(t, compile(t, e, spending(), engines.CompileOptions{Fuel: math.MaxUint64}), engines.Imports{})
	for _, c := range fuelCosts {
		if _, err := invoke(inst, c.fn, c.n); err != nil {
			t.Fatalf("%s(%d): %v", c.fn, c.n, err)
		}
		if used := inst.(engines.FuelMeter).FuelUsed(); used != c.cost {
			t.Errorf("%s(%d) has used %d, want %d", c.fn, c.n, used, c.cost)
		}
	}
}

func testFuelExact(t *testing.T, e engines.WasmEngine) {
	for _, c := range fuelCosts {
		for _, fuel := range []uint64{1, c.cost - 1, c.cost, c.cost + 1} {
			inst := instantiate(t, compile(t, e, spending(), engines.CompileOptions{Fuel: fuel}), engines.Imports{})
			if _, err := invoke(inst, c.fn, c.n); fuel < c.cost {
				wantTrap(t, err, engines.TrapFuel)
			} else if err != nil {
				t.Errorf("%s(%d), which costs %d, with %d: %v", c.fn, c.n, c.cost, fuel, err)
			}
		}
	}
}

func testFuelStart(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	m.Start(m.Func("", toNothing, loop()))
	_, err := compile(t, e, m, engines.CompileOptions{Fuel: 1 << 20}).Instantiate(bg(), engines.Imports{})
	wantTrap(t, err, engines.TrapFuel)
}

func testFuelEachCall(t *testing.T, e engines.WasmEngine) {
	m := spending()
	m.Func("spin", toNothing, loop())
	inst := instantiate(t, compile(t, e, m, engines.CompileOptions{Fuel: 13}), engines.Imports{})
	for range 3 {
		want(t, inst, 0, "count", 2)
		_, err := invoke(inst, "spin")
		wantTrap(t, err, engines.TrapFuel)
	}
}

func testCallDepth(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	m.Func("recurse", i32ToI32, asm.Code{}.
		LocalGet(0).Op(asm.I32Eqz).If().I32Const(0).Op(asm.Return).End().
		LocalGet(0).I32Const(1).Op(asm.I32Sub).Call(0))
	inst := instantiate(t, compile(t, e, m, engines.CompileOptions{CallDepth: 1000}), engines.Imports{})
	for range 3 { // the depth goes back after a trap
		want(t, inst, 0, "recurse", 999)
		_, err := invoke(inst, "recurse", 1000)
		wantTrap(t, err, engines.TrapStackExhausted)
	}
}

func testMeteringRefused(t *testing.T, e engines.WasmEngine) {
	for _, opts := range []engines.CompileOptions{{Fuel: 1}, {CallDepth: 1}} {
		_, err := e.Compile(bg(), onePage().Bytes(), opts)
		wantAs[*engines.UnsupportedError](t, err)
	}
}
