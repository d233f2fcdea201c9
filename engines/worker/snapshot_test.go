//go:build linux || darwin

package worker_test

import (
	"errors"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/engines/worker"
)

// tally counts its calls in memory and in a global that is exported, and tells
// the host.
func tally() []byte {
	m := new(asm.Module)
	host := m.ImportFunc("env", "f", toNothing)
	m.Memory("memory", 1, 4)
	g := m.Global("g", engines.GlobalType{Value: i32, Mutable: true}, asm.Code{}.I32Const(5))
	m.Func("next", asm.Func(nil, asm.Types(i32)), asm.Code{}.
		Call(host).
		GlobalGet(g).I32Const(1).Op(asm.I32Add).GlobalSet(g).
		I32Const(16).I32Const(16).I32Load(0).I32Const(1).Op(asm.I32Add).I32Store(0).
		I32Const(16).I32Load(0).I32Const(100).Op(asm.I32Mul).GlobalGet(g).Op(asm.I32Add))
	m.Func("grow", toNothing, asm.Code{}.I32Const(1).MemoryGrow().Op(0x1a)) // drop
	m.Func("trap", toNothing, asm.Code{}.I32Const(9).GlobalSet(g).Op(asm.Unreachable))
	return m.Bytes()
}

func compileTally(t testing.TB, e engines.WasmEngine, opts engines.CompileOptions) (engines.Module, engines.Instance) {
	t.Helper()
	mod, err := e.Compile(t.Context(), tally(), opts)
	if err != nil {
		t.Fatal(err)
	}
	inst, err := mod.Instantiate(t.Context(), env(noop))
	if err != nil {
		t.Fatal(err)
	}
	return mod, inst
}

func next(t testing.TB, inst engines.Instance) uint64 {
	t.Helper()
	stack := []uint64{0}
	if err := fn(t, inst, "next").Call(t.Context(), stack); err != nil {
		t.Fatal(err)
	}
	return stack[0]
}

func capture(t testing.TB, mod engines.Module, inst engines.Instance) engines.Snapshot {
	t.Helper()
	snap, err := mod.(engines.Snapshotter).Snapshot(inst)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

func revive(t testing.TB, snap engines.Snapshot) engines.Instance {
	t.Helper()
	inst, err := snap.Instantiate(t.Context(), env(noop))
	if err != nil {
		t.Fatal(err)
	}
	return inst
}

var capturable = engines.CompileOptions{Snapshots: true, Fuel: 1 << 30}

// Instances of a snapshot begin as the one that was captured stood, and again
// when they are restored, whatever the host knew of them.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	e := newEngine(t, config(t))
	mod, first := compileTally(t, e, capturable)
	if got := next(t, first); got != 106 {
		t.Fatalf("the first call returns %d, want 106", got)
	}
	snap := capture(t, mod, first)
	if snap.Size() != engines.PageSize {
		t.Errorf("the snapshot's size is %d", snap.Size())
	}
	inst := revive(t, snap)
	mem, global, size := inst.Memory("memory"), inst.Global("g"), uint64(engines.PageSize)
	for range 3 {
		if got := next(t, inst); got != 207 {
			t.Fatalf("the first call after the snapshot returns %d, want 207", got)
		}
		next(t, inst)
		if used := inst.(engines.FuelMeter).FuelUsed(); used == 0 {
			t.Error("no fuel was used")
		}
		if global.Get() != 8 || mem.Size() != size || !mem.Write(20, []byte("dirt")) || global.Set(99) != nil {
			t.Fatal("the instance does not take what is put into it")
		}
		if !snap.Restore(inst) {
			t.Fatal("the instance is not restored")
		}
		got := make([]byte, 8)
		if !mem.Read(16, got) || !slices.Equal(got, []byte{1, 0, 0, 0, 0, 0, 0, 0}) {
			t.Errorf("the memory is %v after it was restored", got)
		}
		if got := global.Get(); got != 6 {
			t.Errorf("the global is %d after it was restored", got)
		}
	}
	if err := fn(t, inst, "trap").Call(t.Context(), nil); err == nil {
		t.Error("the trap does not end the call")
	}
	if !snap.Restore(inst) || global.Get() != 6 {
		t.Error("an instance that trapped is not restored")
	}
	if got := next(t, first); got != 207 {
		t.Errorf("the captured instance goes on with %d, want 207", got)
	}
	if err := fn(t, inst, "grow").Call(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if snap.Restore(inst) || snap.Restore(first) || capture(t, mod, first).Restore(inst) {
		t.Error("an instance was restored that has grown, or is of no snapshot or another")
	}
	if err := errors.Join(snap.Close(), snap.Close()); err != nil {
		t.Error(err)
	}
	if _, err := snap.Instantiate(t.Context(), env(noop)); !errors.Is(err, engines.ErrClosed) {
		t.Errorf("an instance of a closed snapshot: %v", err)
	}
	if err := inst.Close(); err != nil || snap.Restore(inst) {
		t.Errorf("closed and restored: %v", err)
	}
}

// What cannot be captured says why.
func TestSnapshotRefused(t *testing.T) {
	t.Parallel()
	e := newEngine(t, config(t))
	mod, inst := compileTally(t, e, engines.CompileOptions{})
	other, _ := compileTally(t, e, capturable)
	want := func(mod engines.Module, inst engines.Instance) {
		t.Helper()
		_, err := mod.(engines.Snapshotter).Snapshot(inst)
		if _, ok := errors.AsType[*engines.SnapshotError](err); !ok {
			t.Errorf("%v (%T), want a SnapshotError", err, err)
		}
	}
	want(mod, inst)
	want(other, inst)
	if err := inst.Close(); err != nil {
		t.Fatal(err)
	}
	want(mod, inst)
}

// A snapshot ends with its worker, and says that it is the snapshot that ended.
func TestSnapshotGone(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(t *testing.T, e engines.WasmEngine, mod engines.Module){
		"crash": func(t *testing.T, e engines.WasmEngine, _ engines.Module) { kill(t, e, syscall.SIGKILL) },
		"replacement": func(t *testing.T, e engines.WasmEngine, mod engines.Module) {
			for before := worker.PIDs(e); slices.Equal(worker.PIDs(e), before); {
				wantWorks(t, mod)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			cfg.MaxInstances = 10
			e := newEngine(t, cfg)
			mod, inst := compileTally(t, e, capturable)
			next(t, inst)
			snap := capture(t, mod, inst)
			kept := revive(t, snap)
			other, err := e.Compile(t.Context(), spinning(), engines.CompileOptions{})
			if err != nil {
				t.Fatal(err)
			}
			end(t, e, other)
			for err = nil; err == nil; {
				_, err = snap.Instantiate(t.Context(), env(noop))
			}
			if !errors.Is(err, engines.ErrClosed) || snap.Restore(kept) {
				t.Errorf("an instance of a snapshot that is gone: %v", err)
			}
			if err := errors.Join(snap.Close(), kept.Close(), inst.Close()); err != nil {
				t.Error(err)
			}
			again, err := mod.Instantiate(t.Context(), env(noop))
			if err != nil {
				t.Fatal(err)
			}
			next(t, again)
			if got := next(t, revive(t, capture(t, mod, again))); got != 207 {
				t.Errorf("a snapshot in the next worker goes on with %d", got)
			}
		})
	}
}

// A snapshot that is closed while instances are made of it costs no worker its
// life.
func TestSnapshotClosedWhileUsed(t *testing.T) {
	t.Parallel()
	e := newEngine(t, config(t))
	before := worker.PIDs(e)
	mod, first := compileTally(t, e, capturable)
	for range 20 {
		snap := capture(t, mod, first)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for {
					inst, err := snap.Instantiate(t.Context(), env(noop))
					if err != nil {
						if !errors.Is(err, engines.ErrClosed) {
							t.Error(err)
						}
						return
					}
					_ = inst.Close()
				}
			})
		}
		time.Sleep(time.Millisecond)
		if err := snap.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	}
	if after := worker.PIDs(e); !slices.Equal(before, after) {
		t.Errorf("the workers are %v, were %v", after, before)
	}
}

// What a worker lies about a snapshot costs its life, and restores nothing.
func TestSnapshotLies(t *testing.T) {
	t.Parallel()
	for _, name := range snapshotLies {
		t.Run(name, func(t *testing.T) {
			e := newLiar(t, name)
			mod, inst := compileTally(t, e, capturable)
			snap, err := mod.(engines.Snapshotter).Snapshot(inst)
			if err == nil {
				revived := revive(t, snap)
				if snap.Restore(revived) {
					t.Error("restored by a lie")
				}
				_, err = revived.Func("next")
			}
			if crash := wantCrash(t, err); crash.Killed == "" {
				t.Errorf("the crash is %+v", *crash)
			}
		})
	}
}
