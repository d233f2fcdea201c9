package meter_test

import (
	"bytes"
	"context"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/engines/enginetest/diff"
	"forgeone.dev/forgeone/engines/meter"
)

// captured compiles a module for snapshots.
func captured(t testing.TB, e engines.WasmEngine, wasm []byte, opts engines.CompileOptions) engines.Module {
	t.Helper()
	opts.Snapshots = true
	mod, err := e.Compile(context.Background(), wasm, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mod.Close() })
	return mod
}

func call(t testing.TB, inst engines.Instance, name string, args ...uint64) uint64 {
	t.Helper()
	f, err := inst.Func(name)
	if err != nil {
		t.Fatal(err)
	}
	stack := append(args, make([]uint64, 2)...)
	if err := f.Call(context.Background(), stack); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return stack[0]
}

// counter is a module that counts in memory and in a global what it is called.
func counter() *asm.Module {
	m := new(asm.Module)
	m.Memory("memory", 1, 4)
	g := m.Global("", engines.GlobalType{Value: engines.I32, Mutable: true}, asm.Code{}.I32Const(5))
	m.Data(16, "\x07")
	m.Func("next", asm.Func(nil, asm.Types(engines.I32)), asm.Code{}.
		GlobalGet(g).I32Const(1).Op(asm.I32Add).GlobalSet(g).
		I32Const(16).I32Const(16).I32Load(0).I32Const(1).Op(asm.I32Add).I32Store(0).
		I32Const(16).I32Load(0).I32Const(100).Op(asm.I32Mul).GlobalGet(g).Op(asm.I32Add))
	return m
}

func TestSnapshot(t *testing.T) {
	e := metered(t)
	defer e.Close()
	mod := captured(t, e, counter().Bytes(), engines.CompileOptions{Interruptible: true})
	inst, err := mod.Instantiate(t.Context(), engines.Imports{})
	if err != nil {
		t.Fatal(err)
	}
	defer inst.Close()
	if got := call(t, inst, "next"); got != 806 {
		t.Fatalf("the first call returns %d, want 806", got)
	}
	snap, err := mod.(engines.Snapshotter).Snapshot(inst)
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	again, err := snap.Instantiate(t.Context(), engines.Imports{})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for range 3 {
		if got := call(t, again, "next"); got != 907 {
			t.Fatalf("the first call after the snapshot returns %d, want 907", got)
		}
		call(t, again, "next")
		if !snap.Restore(again) {
			t.Fatal("not restored")
		}
	}
	if got := call(t, inst, "next"); got != 907 {
		t.Fatalf("the captured instance goes on with %d, want 907", got)
	}
}

// unmapped is an engine that maps no files, whatever the one below does.
type unmapped struct{ engines.WasmEngine }

func (u unmapped) Info() engines.Info {
	info := u.WasmEngine.Info()
	info.MappedMemory = false
	return info
}

// Memory that is written, and not mapped, does as well.
func TestSnapshotsUnmapped(t *testing.T) {
	e := meter.Wrap(unmapped{bare(t)}, meter.Limits{})
	defer e.Close()
	var tally diff.Captures
	for seed := range uint64(100) {
		if err := diff.CheckSnapshots(t.Context(), e, nil, seed, &tally); err != nil {
			t.Fatal(err)
		}
	}
	if tally.Captured == 0 || tally.Restored == 0 {
		t.Errorf("%+v: this says nothing", tally)
	}
}

// An active segment is dropped once it was written, which wazero alone does not
// see to.
func TestActiveSegmentIsDropped(t *testing.T) {
	m := new(asm.Module)
	m.Memory("memory", 1)
	m.Data(0, "active")
	passive := m.PassiveData("passive")
	m.Data(10, "another")
	three := asm.Func(asm.Types(i32, i32, i32), nil)
	init := func(segment byte) asm.Code {
		return asm.Code{}.LocalGet(0).LocalGet(1).LocalGet(2).Op(0xfc, 8, segment, 0)
	}
	m.Func("active", three, init(0))
	m.Func("passive", three, init(byte(passive)))
	m.Func("another", three, init(2))
	m.Func("drop", toNothing, asm.Code{}.Op(0xfc, 9, 0, 0xfc, 9, 2))
	e := metered(t)
	defer e.Close()
	for name, opts := range map[string]engines.CompileOptions{
		"plain": {}, "fuel": {Fuel: 1 << 20}, "snapshots": {Snapshots: true}, "all": {Snapshots: true, Fuel: 1 << 20, CallDepth: 9},
	} {
		t.Run(name, func(t *testing.T) {
			mod, err := e.Compile(t.Context(), m.Bytes(), opts)
			if err != nil {
				t.Fatal(err)
			}
			defer mod.Close()
			inst, err := mod.Instantiate(t.Context(), engines.Imports{})
			if err != nil {
				t.Fatal(err)
			}
			defer inst.Close()
			call(t, inst, "drop")
			for _, active := range []string{"active", "another"} {
				f, err := inst.Func(active)
				if err != nil {
					t.Fatal(err)
				}
				wantTrap(t, f.Call(t.Context(), []uint64{20, 0, 1}), engines.TrapMemoryBounds)
				wantTrap(t, f.Call(t.Context(), []uint64{engines.PageSize + 1, 0, 0}), engines.TrapMemoryBounds)
				call(t, inst, active, engines.PageSize, 0, 0)
			}
			call(t, inst, "passive", 20, 0, 7)
			got := make([]byte, 27)
			inst.Memory("memory").Read(0, got)
			if want := "active\x00\x00\x00\x00another\x00\x00\x00passive"; string(got) != want {
				t.Errorf("the memory has %q, want %q", got, want)
			}
			// What it changed is empty segments: it can be captured.
			if !opts.Snapshots {
				return
			}
			if inst, err = mod.Instantiate(t.Context(), engines.Imports{}); err != nil {
				t.Fatal(err)
			}
			defer inst.Close()
			call(t, inst, "drop")
			snap, err := mod.(engines.Snapshotter).Snapshot(inst)
			if err != nil {
				t.Fatal(err)
			}
			_ = snap.Close()
		})
	}
}

// A Go program finds nothing of what the last call left behind.
func TestSnapshotOfGoGuest(t *testing.T) {
	e := metered(t)
	defer e.Close()
	mod, imports := started(t, e, engines.CompileOptions{Fuel: 1 << 40, CallDepth: 1000})
	original, err := mod.Instantiate(t.Context(), imports)
	if err != nil {
		t.Fatal(err)
	}
	defer original.Close()
	call(t, original, "_initialize")
	if got := call(t, original, "keep", 1); got != 1 {
		t.Fatalf("keep = %d, want 1", got)
	}
	snap, err := mod.(engines.Snapshotter).Snapshot(original)
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	content := func(inst engines.Instance) []byte {
		memory := make([]byte, inst.Memory("memory").Size())
		inst.Memory("memory").Read(0, memory)
		return memory
	}
	before := content(original)
	want := call(t, original, "keep", 2)
	after, used := content(original), original.(engines.FuelMeter).FuelUsed()
	inst, err := snap.Instantiate(t.Context(), imports)
	if err != nil {
		t.Fatal(err)
	}
	defer inst.Close()
	for range 3 {
		if !bytes.Equal(content(inst), before) {
			t.Fatal("the memory is not what was captured")
		}
		if got := call(t, inst, "keep", 2); got != want {
			t.Fatalf("keep = %d, want %d", got, want)
		}
		if got := inst.(engines.FuelMeter).FuelUsed(); got != used {
			t.Errorf("the call spent %d units, and of the captured instance %d", got, used)
		}
		if !bytes.Equal(content(inst), after) {
			t.Error("the call left something else in memory than that of the captured instance")
		}
		call(t, inst, "fill", 1000)
		if !snap.Restore(inst) {
			t.Fatal("it is not restored")
		}
	}
	call(t, inst, "fill", 8<<20)
	if snap.Restore(inst) {
		t.Error("it is restored, and its memory has grown")
	}
}

// What the host is given of an instance and no snapshot has, it may change.
func TestSnapshotOfReferences(t *testing.T) {
	m := new(asm.Module)
	m.Global("ref", engines.GlobalType{Value: engines.ExternRef, Mutable: true}, asm.Code{}.RefNull(engines.ExternRef))
	m.Global("constant", engines.GlobalType{Value: engines.ExternRef}, asm.Code{}.RefNull(engines.ExternRef))
	e := metered(t)
	defer e.Close()
	mod := captured(t, e, m.Bytes(), engines.CompileOptions{})
	inst, err := mod.Instantiate(t.Context(), engines.Imports{})
	if err != nil {
		t.Fatal(err)
	}
	defer inst.Close()
	inst.Global("constant")
	snap, err := mod.(engines.Snapshotter).Snapshot(inst)
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	again, err := snap.Instantiate(t.Context(), engines.Imports{})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	again.Global("constant")
	if !snap.Restore(again) {
		t.Error("an instance is not restored that cannot have changed")
	}
	again.Global("ref")
	if snap.Restore(again) {
		t.Error("an instance is restored whose reference the host may have changed")
	}
	if _, err := mod.(engines.Snapshotter).Snapshot(again); err == nil {
		t.Error("an instance is captured whose reference the host may have changed")
	}
}

// What is exported for snapshots is not the user's.
func TestSnapshotExportsAreHidden(t *testing.T) {
	m := new(asm.Module)
	m.Memory("", 1)
	m.Global("", engines.GlobalType{Value: engines.I32, Mutable: true}, asm.Code{}.I32Const(1))
	m.Table("", 1)
	m.Func("f", toNothing, asm.Code{}.I32Const(0).RefNull(engines.FuncRef).Op(0x26, 0)) // table.set
	e := metered(t)
	defer e.Close()
	mod := captured(t, e, m.Bytes(), engines.CompileOptions{})
	inst, err := mod.Instantiate(t.Context(), engines.Imports{})
	if err != nil {
		t.Fatal(err)
	}
	defer inst.Close()
	const reserved = "forgeone:meter"
	if inst.Memory(reserved+"/memory") != nil || inst.Global(reserved+"/global/0") != nil || inst.Global(reserved+"/changed") != nil {
		t.Error("the user is given what is exported for snapshots")
	}
	if exports := mod.Exports(); len(exports) != 1 {
		t.Errorf("the module exports %v, want f alone", exports)
	}
}

// Data that is taken out of a module is checked first, as an engine would.
func TestSnapshotOfInvalidData(t *testing.T) {
	header := "\x00asm\x01\x00\x00\x00"
	memory := "\x05\x03\x01\x00\x01"
	e := metered(t)
	defer e.Close()
	for name, wasm := range map[string]string{
		"fewer segments than announced": header + memory + "\x0c\x01\x02" + "\x0b\x07\x01\x00\x41\x00\x0b\x01x",
		"segments announced and none":   header + memory + "\x0c\x01\x01",
		"no memory":                     header + "\x0b\x07\x01\x00\x41\x00\x0b\x01x",
		"an offset of another type":     header + memory + "\x0b\x07\x01\x00\x42\x00\x0b\x01x",
		"an offset of two values":       header + memory + "\x0b\x09\x01\x00\x41\x00\x41\x00\x0b\x01x",
		"no offset":                     header + memory + "\x0b\x05\x01\x00\x0b\x01x",
		"an offset of no constant":      header + memory + "\x0c\x01\x01" + "\x0b\x09\x01\x00\xfc\x09\x00\x0b\x01x\x00",
	} {
		if mod, err := e.Compile(t.Context(), []byte(wasm), engines.CompileOptions{Snapshots: true}); err == nil {
			t.Errorf("%s: compiled", name)
			_ = mod.Close()
		}
	}
	valid := header + memory + "\x0c\x01\x01" + "\x0b\x07\x01\x00\x41\x00\x0b\x01x"
	captured(t, e, []byte(valid), engines.CompileOptions{})
}
