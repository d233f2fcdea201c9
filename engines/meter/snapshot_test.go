package meter_test

import (
	"context"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
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
