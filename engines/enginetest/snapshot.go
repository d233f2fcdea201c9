package enginetest

import (
	"bytes"
	"context"
	"errors"
	"math"
	"sync"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

var snapshotCases = []testCase{
	{name: "snapshot/refused", needs: "Snapshots", refusal: true, run: testSnapshotsRefused},
	{name: "snapshot/an instance goes on where it was captured", needs: "Snapshots", run: testSnapshotGoesOn},
	{name: "snapshot/a module without memory", needs: "Snapshots", run: testSnapshotNoMemory},
	{name: "snapshot/a large memory that has grown", needs: "Snapshots", run: testSnapshotGrown},
	{name: "snapshot/nothing is left after restoring", needs: "Snapshots", run: testRestore},
	{name: "snapshot/restored after a trap", needs: "Snapshots", run: testRestoreTrapped},
	{name: "snapshot/what cannot be restored", needs: "Snapshots", run: testNotRestored},
	{name: "snapshot/what cannot be captured", needs: "Snapshots", run: testNotCaptured},
	{name: "snapshot/imported memory", needs: "Snapshots", run: testSnapshotImports},
	{name: "snapshot/linked instances", needs: "Snapshots", run: testSnapshotLinked},
	{name: "snapshot/during a call", needs: "Snapshots", run: testSnapshotBusy},
	{name: "snapshot/the start function does not run again", needs: "Snapshots", run: testSnapshotStart},
	{name: "snapshot/data out of bounds", needs: "Snapshots", run: testSnapshotData},
	{name: "snapshot/fuel", needs: "Snapshots", run: testSnapshotFuel},
	{name: "snapshot/host functions and a deadline", needs: "Snapshots", run: testSnapshotHost},
	{name: "snapshot/closing", needs: "Snapshots", run: testSnapshotClose},
	{name: "snapshot/of an instance from a snapshot", needs: "Snapshots", run: testSnapshotNested},
	{name: "snapshot/many at once", needs: "Snapshots", run: testSnapshotConcurrent},
	{name: "snapshot/only where it is asked for", needs: "Snapshots", run: testSnapshotOff},
}

var capturable = engines.CompileOptions{Snapshots: true}

func testSnapshotsRefused(t *testing.T, e engines.WasmEngine) {
	_, err := e.Compile(bg(), new(asm.Module).Bytes(), capturable)
	wantAs[*engines.UnsupportedError](t, err)
}

// capture takes a snapshot of an instance of mod.
func capture(t testing.TB, mod engines.Module, inst engines.Instance) engines.Snapshot {
	t.Helper()
	snap, err := mod.(engines.Snapshotter).Snapshot(inst)
	if err != nil {
		t.Fatalf("Snapshot: %v", err)
	}
	t.Cleanup(func() { closeAll(t, snap) })
	return snap
}

// notCaptured fails the test unless capturing is refused.
func notCaptured(t testing.TB, mod engines.Module, inst engines.Instance) {
	t.Helper()
	snap, err := mod.(engines.Snapshotter).Snapshot(inst)
	if err == nil {
		closeAll(t, snap)
		t.Error("it is captured")
		return
	}
	if refusal := wantAs[*engines.SnapshotError](t, err); refusal.Reason == "" {
		t.Error("no reason is given")
	}
}

// revive makes an instance from a snapshot.
func revive(t testing.TB, snap engines.Snapshot, imports ...engines.Imports) engines.Instance {
	t.Helper()
	var im engines.Imports
	if len(imports) > 0 {
		im = imports[0]
	}
	inst, err := snap.Instantiate(bg(), im)
	if err != nil {
		t.Fatalf("Instantiate from a snapshot: %v", err)
	}
	t.Cleanup(func() { closeAll(t, inst) })
	return inst
}

// keeper is a module that can change all that it has: a memory of four pages
// with data at 8, globals, a table and segments.
func keeper() *asm.Module {
	m := fourPages()
	numbers := m.Global("n", mutI32, asm.Code{}.I32Const(7))
	wide := m.Global("w", engines.GlobalType{Value: i64, Mutable: true}, asm.Code{}.I64Const(-7))
	single := m.Global("s", engines.GlobalType{Value: f32, Mutable: true}, asm.Code{}.F32Const(1.5))
	double := m.Global("d", engines.GlobalType{Value: f64, Mutable: true}, asm.Code{}.F64Const(-2.5))
	hidden := m.Global("", mutI32, asm.Code{}.I32Const(9))
	reference := m.Global("", engines.GlobalType{Value: engines.FuncRef, Mutable: true}, asm.Code{}.RefNull(engines.FuncRef))
	one := m.Func("one", toI32, asm.Code{}.I32Const(1))
	two := m.Func("two", toI32, asm.Code{}.I32Const(2))
	m.Table("", 4, 8)
	m.Elem(1, one)
	elem, data := m.PassiveElem(two), m.PassiveData("passive")
	m.Func("call", i32ToI32, asm.Code{}.LocalGet(0).CallIndirect(m.Type(toI32)))
	m.Func("set globals", toNothing, asm.Code{}.
		I32Const(-1).GlobalSet(numbers).I64Const(1<<40).GlobalSet(wide).
		F32Const(float32(math.Inf(1))).GlobalSet(single).F64Const(1e300).GlobalSet(double).
		I32Const(77).GlobalSet(hidden))
	m.Func("hidden", toI32, asm.Code{}.GlobalGet(hidden))
	m.Func("set reference", toNothing, asm.Code{}.RefFunc(one).GlobalSet(reference))
	m.Func("table.set", toNothing, asm.Code{}.I32Const(2).RefFunc(two).Op(0x26, 0))
	m.Func("table.init", toNothing, asm.Code{}.I32Const(2).I32Const(0).I32Const(1).Op(0xfc, 12, byte(elem), 0))
	m.Func("table.copy", toNothing, asm.Code{}.I32Const(2).I32Const(1).I32Const(1).Op(0xfc, 14, 0, 0))
	m.Func("table.grow", toNothing, asm.Code{}.RefNull(engines.FuncRef).I32Const(1).Op(0xfc, 15, 0, asm.Drop))
	m.Func("table.fill", toNothing, asm.Code{}.I32Const(1).RefNull(engines.FuncRef).I32Const(1).Op(0xfc, 17, 0))
	m.Func("elem.drop", toNothing, asm.Code{}.Op(0xfc, 13, byte(elem)))
	m.Func("data.drop", toNothing, asm.Code{}.Op(0xfc, 9, byte(data)))
	m.Func("init", i32ToI32, asm.Code{}.LocalGet(0).I32Const(0).I32Const(7).Op(0xfc, 8, byte(data), 0).LocalGet(0).I32Load(0))
	m.Func("trap", toNothing, asm.Code{}.I32Const(33).GlobalSet(hidden).I32Const(0).I32Const(33).I32Store(0).Op(asm.Unreachable))
	return m
}

// spoilers are the functions of keeper that change what no snapshot has.
var spoilers = []string{"set reference", "table.set", "table.init", "table.copy", "table.grow", "table.fill", "elem.drop", "data.drop"}

// wantState fails the test unless a keeper is as it was instantiated.
func wantState(t testing.TB, inst engines.Instance, memory []byte) {
	t.Helper()
	wantContents(t, inst, memory)
	for name, value := range map[string]uint64{
		"n": 7, "w": 1<<64 - 7, "s": uint64(math.Float32bits(1.5)), "d": math.Float64bits(-2.5),
	} {
		if got := inst.Global(name).Get(); got != value {
			t.Errorf("global %s is %#x, want %#x", name, got, value)
		}
	}
	want(t, inst, 9, "hidden")
	want(t, inst, 1, "call", 1)
	for _, empty := range []uint64{0, 2, 3, 4} {
		_, err := invoke(inst, "call", empty)
		wantTrap(t, err, engines.TrapTableBounds)
	}
}

func call(t testing.TB, inst engines.Instance, name string, params ...uint64) {
	t.Helper()
	if _, err := invoke(inst, name, params...); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func testSnapshotGoesOn(t *testing.T, e engines.WasmEngine) {
	mod := compile(t, e, keeper(), capturable)
	inst := instantiate(t, mod, engines.Imports{})
	call(t, inst, "set globals")
	call(t, inst, "store", 3*page+100, 0x12345678)
	snap := capture(t, mod, inst)
	if snap.Size() != 4*page {
		t.Errorf("the snapshot has %d bytes of memory, want %d", snap.Size(), 4*page)
	}
	then := contents(t, inst)
	call(t, inst, "store", 0, 1) // of the one captured alone
	for range 2 {
		again := revive(t, snap)
		wantContents(t, again, then)
		want(t, again, 77, "hidden")
		want(t, again, 1, "call", 1)
		if got := again.Global("w").Get(); got != 1<<40 {
			t.Errorf("global w is %d, want %d", got, 1<<40)
		}
		call(t, again, "store", 0, 2) // is not seen by the next
		want(t, inst, 1, "load", 0)
	}
}

func testSnapshotNoMemory(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	g := m.Global("", mutI32, asm.Code{}.I32Const(5))
	m.Func("next", toI32, asm.Code{}.GlobalGet(g).I32Const(1).Op(asm.I32Add).GlobalSet(g).GlobalGet(g))
	mod := compile(t, e, m, capturable)
	inst := instantiate(t, mod, engines.Imports{})
	want(t, inst, 6, "next")
	snap := capture(t, mod, inst)
	if snap.Size() != 0 {
		t.Errorf("the snapshot has %d bytes of memory, want none", snap.Size())
	}
	again := revive(t, snap)
	for range 3 {
		want(t, again, 7, "next")
		want(t, again, 8, "next")
		if !snap.Restore(again) {
			t.Fatal("it is not restored")
		}
	}
	closeAll(t, again)
	if snap.Restore(again) {
		t.Error("it is restored and closed")
	}
}

func testSnapshotGrown(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	m.Memory("memory", 1, 100)
	m.Func("load", i32ToI32, asm.Code{}.LocalGet(0).I32Load(0))
	m.Func("store", asm.Func(asm.Types(i32, i32), nil), asm.Code{}.LocalGet(0).LocalGet(1).I32Store(0))
	m.Func("grow", i32ToI32, asm.Code{}.LocalGet(0).MemoryGrow())
	mod := compile(t, e, m, capturable)
	inst := instantiate(t, mod, engines.Imports{})
	want(t, inst, 1, "grow", 79)
	for _, at := range []uint64{0, 40 * page, 80*page - 4} {
		call(t, inst, "store", at, at+1)
	}
	snap := capture(t, mod, inst)
	then := contents(t, inst)
	again := revive(t, snap)
	for range 3 {
		wantContents(t, again, then)
		for at := uint64(0); at < 80*page; at += page / 2 {
			call(t, again, "store", at, 0xffffffff)
		}
		if !snap.Restore(again) {
			t.Fatal("it is not restored")
		}
	}
	want(t, again, 80, "grow", 1) // goes on as it would have
	want(t, again, 0, "load", 80*page)
	if snap.Restore(again) {
		t.Error("it is restored, with a page more")
	}
}

func testRestore(t *testing.T, e engines.WasmEngine) {
	mod := compile(t, e, keeper(), capturable)
	inst := instantiate(t, mod, engines.Imports{})
	begin := contents(t, inst)
	snap := capture(t, mod, inst)
	again := revive(t, snap)
	for i := range 4 {
		wantState(t, again, begin)
		call(t, again, "set globals")
		call(t, again, "fill", 0, 0xee, 4*page)
		call(t, again, "init", uint64(100*i))
		if !again.Memory("memory").Write(page, []byte("the host's")) || again.Global("n").Set(4) != nil {
			t.Fatal("the host cannot write")
		}
		if !snap.Restore(again) {
			t.Fatal("it is not restored")
		}
	}
	wantState(t, again, begin)
	if snap.Restore(inst) {
		t.Error("an instance is restored that the snapshot did not make")
	}
}

func testRestoreTrapped(t *testing.T, e engines.WasmEngine) {
	mod := compile(t, e, keeper(), capturable)
	inst := instantiate(t, mod, engines.Imports{})
	begin := contents(t, inst)
	snap := capture(t, mod, inst)
	again := revive(t, snap)
	_, err := invoke(again, "trap")
	wantTrap(t, err, engines.TrapUnreachable)
	notCaptured(t, mod, again)
	if !snap.Restore(again) {
		again = revive(t, snap) // that it cannot is an answer too
	}
	capture(t, mod, again)
	wantState(t, again, begin)
}

func testNotRestored(t *testing.T, e engines.WasmEngine) {
	mod := compile(t, e, keeper(), capturable)
	inst := instantiate(t, mod, engines.Imports{})
	begin := contents(t, inst)
	snap := capture(t, mod, inst)
	for _, spoil := range append(spoilers, "grow") {
		again := revive(t, snap)
		call(t, again, spoil, 1)
		if snap.Restore(again) {
			t.Errorf("it is restored after %s", spoil)
		}
		wantState(t, revive(t, snap), begin)
	}
	again := revive(t, snap)
	closeAll(t, again)
	if snap.Restore(again) {
		t.Error("it is restored and closed")
	}
	other := capture(t, mod, inst)
	if again = revive(t, other); snap.Restore(again) {
		t.Error("an instance of another snapshot is restored")
	}
}

func testNotCaptured(t *testing.T, e engines.WasmEngine) {
	mod := compile(t, e, keeper(), capturable)
	for _, spoil := range spoilers {
		t.Run(spoil, func(t *testing.T) {
			inst := instantiate(t, mod, engines.Imports{})
			call(t, inst, spoil)
			notCaptured(t, mod, inst)
		})
	}
	inst := instantiate(t, mod, engines.Imports{})
	notCaptured(t, compile(t, e, keeper(), capturable), inst)
	closeAll(t, inst)
	notCaptured(t, mod, inst)
}

func testSnapshotImports(t *testing.T, e engines.WasmEngine) {
	lending := new(asm.Module)
	lending.Memory("memory", 1, 2)
	lending.Global("g", mutI32, asm.Code{}.I32Const(1))
	lending.Table("table", 2)
	lender := instantiate(t, compile(t, e, lending, capturable), engines.Imports{})
	for _, add := range map[string]func(*asm.Module){
		"memory": func(m *asm.Module) { m.ImportMemory("lib", "memory", 1, 2); m.Data(8, "data") },
		"global": func(m *asm.Module) { m.ImportGlobal("lib", "g", mutI32) },
		"table":  func(m *asm.Module) { m.ImportTable("lib", "table", 2) },
	} {
		m := new(asm.Module)
		add(m)
		mod := compile(t, e, m, capturable)
		notCaptured(t, mod, instantiate(t, mod, lend(lender)))
	}
	var data [4]byte
	if !lender.Memory("memory").Read(8, data[:]) || string(data[:]) != "data" {
		t.Errorf("an active segment wrote %q to an imported memory", data)
	}
}

func testSnapshotLinked(t *testing.T, e engines.WasmEngine) {
	lending := compile(t, e, keeper(), capturable)
	lender := instantiate(t, lending, engines.Imports{})
	snap := capture(t, lending, lender)
	again := revive(t, snap)
	m := new(asm.Module)
	f := m.ImportFunc("lib", "one", toI32)
	m.Func("run", toI32, asm.Code{}.Call(f))
	mod := compile(t, e, m, capturable)
	for _, l := range []engines.Instance{lender, again} {
		inst := instantiate(t, mod, lend(l))
		want(t, inst, 1, "run")
		notCaptured(t, mod, inst)
		notCaptured(t, lending, l)
	}
	if snap.Restore(again) {
		t.Error("it is restored, and linked to another instance")
	}
}

func testSnapshotBusy(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	f := m.ImportFunc("env", "f", toNothing)
	m.Func("run", toNothing, asm.Code{}.Call(f))
	mod := compile(t, e, m, capturable)
	var inst engines.Instance
	var during func()
	imports := env(engines.HostFunction{Name: "f", Type: toNothing, Call: func(context.Context, engines.Caller, []uint64) error {
		during()
		return nil
	}})
	inst = instantiate(t, mod, imports)
	during = func() { notCaptured(t, mod, inst) }
	call(t, inst, "run")
	snap := capture(t, mod, inst)
	inst = revive(t, snap, imports)
	during = func() {
		if snap.Restore(inst) {
			t.Error("it is restored during a call")
		}
	}
	call(t, inst, "run")
	if !snap.Restore(inst) {
		t.Error("it is not restored after the call")
	}
}

func testSnapshotStart(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	m.Memory("memory", 1)
	m.Data(0, "\x05")
	g := m.Global("g", mutI32, asm.Code{}.I32Const(1))
	m.Start(m.Func("", toNothing, asm.Code{}.GlobalGet(g).I32Const(0).I32Load(0).Op(asm.I32Add).GlobalSet(g))) // after the data
	mod := compile(t, e, m, capturable)
	inst := instantiate(t, mod, engines.Imports{})
	snap := capture(t, mod, inst)
	for _, i := range []engines.Instance{inst, revive(t, snap)} {
		if got := i.Global("g").Get(); got != 6 {
			t.Errorf("the global is %d, want 6", got)
		}
	}
}

func testSnapshotData(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	m.Memory("memory", 1)
	m.Data(0, "in")
	m.Data(page-2, "out")
	_, err := compile(t, e, m, capturable).Instantiate(bg(), engines.Imports{})
	wantTrap(t, err, engines.TrapMemoryBounds)

	// Later segments are on top of earlier ones, and none is left of those that
	// are empty.
	m = new(asm.Module)
	m.Memory("memory", 1)
	m.Data(10, "abcdef")
	m.Data(12, "XY")
	m.Data(8, "..")
	m.Data(10, "_")
	m.Data(page, "")
	m.Data(page-1, "z")
	m.Data(3000, "far")
	m.Data(2900, "near")
	m.Data(3100, "beyond")
	mod := compile(t, e, m, capturable)
	inst := instantiate(t, mod, engines.Imports{})
	expected := make([]byte, page)
	copy(expected[8:], ".._bXYef")
	copy(expected[3000:], "far")
	copy(expected[2900:], "near")
	copy(expected[3100:], "beyond")
	expected[page-1] = 'z'
	wantContents(t, inst, expected)
	wantContents(t, revive(t, capture(t, mod, inst)), expected)

	m = new(asm.Module)
	m.Memory("memory", 0)
	m.Data(1, "")
	_, err = compile(t, e, m, capturable).Instantiate(bg(), engines.Imports{})
	wantTrap(t, err, engines.TrapMemoryBounds)
}

func testSnapshotFuel(t *testing.T, e engines.WasmEngine) {
	opts := engines.CompileOptions{Snapshots: true, Fuel: 1 << 20, CallDepth: 50}
	m := new(asm.Module)
	m.Func("down", i32ToI32, asm.Code{}.LocalGet(0).If().LocalGet(0).I32Const(1).Op(asm.I32Sub).Call(0).Op(asm.Drop).End().LocalGet(0))
	mod := compile(t, e, m, opts)
	inst := instantiate(t, mod, engines.Imports{})
	want(t, inst, 10, "down", 10)
	used := inst.(engines.FuelMeter).FuelUsed()
	snap := capture(t, mod, inst)
	again := revive(t, snap)
	if got := again.(engines.FuelMeter).FuelUsed(); got != 0 {
		t.Errorf("%d units are used before the first call", got)
	}
	for range 3 {
		want(t, again, 10, "down", 10)
		if got := again.(engines.FuelMeter).FuelUsed(); got != used || used == 0 {
			t.Errorf("%d units are used, and %d by the one that was captured", got, used)
		}
		_, err := invoke(again, "down", 1000)
		wantTrap(t, err, engines.TrapStackExhausted)
		if !snap.Restore(again) {
			t.Fatal("it is not restored")
		}
		if got := again.(engines.FuelMeter).FuelUsed(); got != 0 {
			t.Errorf("%d units are used after restoring", got)
		}
	}
}

func testSnapshotHost(t *testing.T, e engines.WasmEngine) {
	opts := engines.CompileOptions{Snapshots: true, Interruptible: true}
	m := new(asm.Module)
	f := m.ImportFunc("env", "f", toI32)
	m.Memory("memory", 1)
	m.Func("run", toI32, asm.Code{}.Call(f))
	m.Func("spin", toNothing, asm.Code{}.I32Const(0).I32Const(9).I32Store(0).Loop().Br(0).End())
	mod := compile(t, e, m, opts)
	answer := func(n uint64) engines.Imports {
		return env(engines.HostFunction{Name: "f", Type: toI32, Call: func(_ context.Context, c engines.Caller, stack []uint64) error {
			stack[0] = n
			c.Memory().Write(8, []byte{1})
			return nil
		}})
	}
	inst := instantiate(t, mod, answer(1))
	snap := capture(t, mod, inst)
	again := revive(t, snap, answer(2))
	want(t, again, 2, "run")
	want(t, inst, 1, "run")
	ctx, cancel := context.WithCancel(bg())
	cancel()
	if _, err := snap.Instantiate(ctx, answer(3)); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that is done: %v", err)
	}
	_, err := snap.Instantiate(bg(), engines.Imports{})
	wantAs[*engines.LinkError](t, err)
	ctx, cancel = context.WithTimeout(bg(), soon)
	defer cancel()
	wantTrap(t, fn(t, again, "spin").Call(ctx, nil), engines.TrapInterrupted)
	if !snap.Restore(again) {
		again = revive(t, snap, answer(2))
	}
	wantContents(t, again, make([]byte, page))
	want(t, again, 2, "run")
}

func testSnapshotClose(t *testing.T, e engines.WasmEngine) {
	mod := compile(t, e, keeper(), capturable)
	inst := instantiate(t, mod, engines.Imports{})
	begin := contents(t, inst)
	snap := capture(t, mod, inst)
	closeAll(t, inst)
	again := revive(t, snap)
	closeAll(t, snap, snap)
	wantState(t, again, begin)
	call(t, again, "set globals")
	want(t, again, 77, "hidden")
	if snap.Restore(again) {
		t.Error("it is restored to a snapshot that is closed")
	}
	_, err := snap.Instantiate(bg(), engines.Imports{})
	wantIs(t, err, engines.ErrClosed)
}

func testSnapshotNested(t *testing.T, e engines.WasmEngine) {
	mod := compile(t, e, keeper(), capturable)
	first := capture(t, mod, instantiate(t, mod, engines.Imports{}))
	inst := revive(t, first)
	call(t, inst, "store", 0, 1)
	call(t, inst, "set globals")
	second := capture(t, mod, inst)
	then := contents(t, inst)
	again := revive(t, second)
	closeAll(t, first)
	for range 2 {
		wantContents(t, again, then)
		want(t, again, 77, "hidden")
		call(t, again, "store", 0, 2)
		if !second.Restore(again) {
			t.Fatal("it is not restored")
		}
	}
}

func testSnapshotConcurrent(t *testing.T, e engines.WasmEngine) {
	mod := compile(t, e, keeper(), capturable)
	inst := instantiate(t, mod, engines.Imports{})
	begin := contents(t, inst)
	snap := capture(t, mod, inst)
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			again, err := snap.Instantiate(bg(), engines.Imports{})
			if err != nil {
				t.Error(err)
				return
			}
			defer again.Close()
			memory := make([]byte, len(begin))
			for range 20 {
				if _, err := invoke(again, "fill", 0, uint64(n), 4*page); err != nil {
					t.Error(err)
				}
				if !snap.Restore(again) {
					t.Error("it is not restored")
				}
				if !again.Memory("memory").Read(0, memory) || !bytes.Equal(memory, begin) {
					t.Error("it does not have the memory that was captured")
				}
			}
		})
	}
	wg.Wait()
}

func testSnapshotOff(t *testing.T, e engines.WasmEngine) {
	mod := compile(t, e, keeper())
	inst := instantiate(t, mod, engines.Imports{})
	if s, ok := mod.(engines.Snapshotter); ok {
		if _, err := s.Snapshot(inst); err == nil {
			t.Error("an instance is captured whose module was not compiled for it")
		}
	}
	if plain, captured := mod.Exports(), compile(t, e, keeper(), capturable).Exports(); len(plain) != len(captured) {
		t.Errorf("a module compiled for snapshots has %d exports, and one that is not %d", len(captured), len(plain))
	}
}
