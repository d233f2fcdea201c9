package meter_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/spec"
	"forgeone.dev/forgeone/engines/meter"
	"forgeone.dev/forgeone/engines/wazero"
)

// modes are the ways to rewrite a module, the first none.
var modes = []engines.CompileOptions{
	{},
	{Interruptible: true, MemoryLimitPages: 100},
	{Fuel: 100_000, MemoryLimitPages: 100},
	{Fuel: 100_000, CallDepth: 50, MemoryLimitPages: 100},
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
		if plainErr == nil && len(mod.Imports()) == 0 {
			run(t, metered, wasm)
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

// run calls each function of a module that takes nothing: all end in time.
func run(t *testing.T, e engines.WasmEngine, wasm []byte) {
	for _, opts := range modes[1:] {
		mod, err := e.Compile(context.Background(), wasm, opts)
		if err != nil {
			continue // refused, and reported where that is wrong
		}
		defer mod.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		inst, err := mod.Instantiate(ctx, engines.Imports{})
		if err != nil {
			continue
		}
		for _, ex := range mod.Exports() {
			if ex.Type.Kind != engines.KindFunc || len(ex.Type.Func.Params) > 0 {
				continue
			}
			f, err := inst.Func(ex.Name)
			if err != nil {
				t.Fatal(err)
			}
			err = f.Call(ctx, make([]uint64, f.Type().Slots()))
			used := inst.(engines.FuelMeter).FuelUsed()
			if err == nil && opts.Fuel > 0 && used > opts.Fuel {
				t.Errorf("a call succeeded that spent %d of %d", used, opts.Fuel)
			}
		}
		_ = inst.Close()
	}
}
