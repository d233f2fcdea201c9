package meter_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/spec"
	"forgeone.dev/forgeone/engines/meter"
	"forgeone.dev/forgeone/engines/wazero"
)

// memoryPages is the limit of each memory that is not only compiled.
const memoryPages = 100

// modes are the ways to rewrite a module, the first none.
var modes = []engines.CompileOptions{
	{},
	{Interruptible: true, MemoryLimitPages: memoryPages},
	{Fuel: 100_000, MemoryLimitPages: memoryPages},
	{Fuel: 100_000, CallDepth: 50, MemoryLimitPages: memoryPages},
	{Interruptible: true, MemoryLimitPages: memoryPages, Snapshots: true},
	{Fuel: 100_000, CallDepth: 50, MemoryLimitPages: memoryPages, Snapshots: true},
}

// FuzzRewrite gives any bytes to the rewriting. It must not panic; what wazero
// takes it must take too, or say which limit or feature is in the way; what it
// makes wazero must take; and what wazero refuses must not become valid by it.
func FuzzRewrite(f *testing.F) {
	f.Add(programs())
	for _, m := range attackers() {
		f.Add(m.Bytes())
	}
	files, err := filepath.Glob(filepath.Join(spec.Vectors(f), "v2", "testdata", "*.0.wasm"))
	if err != nil || len(files) == 0 {
		f.Fatalf("no vectors: %v", err)
	}
	for _, file := range files {
		wasm, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		if len(wasm) < 4<<10 {
			f.Add(wasm)
		}
	}
	plain, err := wazero.New()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = plain.Close() })
	inner, err := wazero.New()
	if err != nil {
		f.Fatal(err)
	}
	metered := meter.Wrap(inner, meter.Limits{ModuleBytes: 1 << 20, TableEntries: 1 << 16})
	f.Cleanup(func() { _ = metered.Close() })

	f.Fuzz(func(t *testing.T, wasm []byte) {
		ctx := context.Background()
		mod, plainErr := plain.Compile(ctx, wasm, engines.CompileOptions{})
		if plainErr == nil {
			defer mod.Close()
		}
		for _, opts := range modes {
			mod, err := metered.Compile(ctx, bytes.Clone(wasm), opts)
			if err == nil {
				defer mod.Close()
			}
			if (err == nil) == (plainErr == nil) || plainErr == nil && refusal(err) {
				continue
			}
			t.Errorf("%+v: metered %v, plain %v", opts, err, plainErr)
		}
		// A table that is not clamped can take all memory. And wazero does not drop
		// active segments, so that memory.init of one does not trap.
		if plainErr != nil || len(mod.Imports()) > 0 || bytes.Contains(wasm, []byte{0xfc, 15}) || bytes.Contains(wasm, []byte{0xfc, 8}) {
			return
		}
		if mod, err := plain.Compile(ctx, wasm, engines.CompileOptions{MemoryLimitPages: memoryPages}); err == nil {
			defer mod.Close()
			for _, opts := range modes[1:] {
				compare(t, mod, metered, wasm, opts)
			}
		}
	})
}

// refusal reports whether the error is one of the meter's own, not of the
// engine that was given what the meter had made.
func refusal(err error) bool {
	compile, ok := errors.AsType[*engines.CompileError](err)
	if !ok {
		return false
	}
	_, limit := errors.AsType[*meter.LimitError](err)
	return limit || bytes.Contains([]byte(compile.Error()), []byte("above its limit")) || bytes.Contains([]byte(compile.Error()), []byte("reserved"))
}

// compare calls each function of a module in turn, metered and not: what ends
// within its limits ends alike.
func compare(t *testing.T, plain engines.Module, e engines.WasmEngine, wasm []byte, opts engines.CompileOptions) {
	mod, err := e.Compile(context.Background(), wasm, opts)
	if err != nil {
		return // refused, and reported where that is wrong
	}
	defer mod.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	inst, err := mod.Instantiate(ctx, engines.Imports{})
	if limited(err) {
		return
	}
	want, wantErr := plain.Instantiate(context.Background(), engines.Imports{})
	if class(err) != class(wantErr) {
		t.Fatalf("%+v: Instantiate: metered %v, plain %v", opts, err, wantErr)
	}
	if err != nil {
		return
	}
	defer inst.Close()
	defer want.Close()
	for _, ex := range mod.Exports() {
		if ex.Type.Kind == engines.KindMemory && inst.Memory(ex.Name).Size() != want.Memory(ex.Name).Size() {
			t.Errorf("%+v: memory of %d bytes, plain %d", opts, inst.Memory(ex.Name).Size(), want.Memory(ex.Name).Size())
		}
		if ex.Type.Kind != engines.KindFunc {
			continue
		}
		stack := make([]uint64, ex.Type.Func.Slots())
		wantStack := make([]uint64, len(stack))
		f := function(t, inst, ex.Name)
		err := f.Call(ctx, stack)
		if limited(err) {
			return
		}
		wantErr := function(t, want, ex.Name).Call(context.Background(), wantStack)
		if class(err) != class(wantErr) || err == nil && !slices.Equal(stack, wantStack) {
			t.Errorf("%+v: %s: metered %d %v, plain %d %v", opts, ex.Name, stack, err, wantStack, wantErr)
		}
		if used := inst.(engines.FuelMeter).FuelUsed(); err == nil && opts.Fuel > 0 && used > opts.Fuel {
			t.Errorf("%+v: %s has used %d", opts, ex.Name, used)
		}
	}
}

// class is the class of the trap that ended a call, -1 if it did not trap.
func class(err error) engines.TrapClass {
	if trap, ok := errors.AsType[*engines.Trap](err); ok {
		return trap.Class
	}
	return -1
}

// limited reports whether a call ended for a limit, so that there is nothing to
// compare with: the plain one may never end.
func limited(err error) bool {
	switch class(err) {
	case engines.TrapFuel, engines.TrapInterrupted, engines.TrapStackExhausted:
		return true
	}
	return false
}
