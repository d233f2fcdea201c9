//go:build wasmtime

package meter_test

import (
	"math"
	"testing"

	upstream "github.com/bytecodealliance/wasmtime-go/v44"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/meter"
	"forgeone.dev/forgeone/engines/wasmtime"
)

// BenchmarkWasmtime is as BenchmarkWazero. Wasmtime's own limits are its epochs,
// which the adapter uses where nothing else meters, and its fuel.
func BenchmarkWasmtime(b *testing.B) {
	bare := func(t testing.TB) engines.WasmEngine {
		e, err := wasmtime.New()
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	metered := func(t testing.TB) engines.WasmEngine { return meter.Wrap(bare(t), meter.Limits{}) }
	benchmark(b, append(limits(bare, metered),
		with("own-epoch", bare, engines.CompileOptions{Interruptible: true}),
		rival{"own-fuel", loadWithFuel}))
}

// loadWithFuel loads the programs by Wasmtime's binding, with its fuel.
func loadWithFuel(t testing.TB) func(string) func(uint64) error {
	config := upstream.NewConfig()
	config.SetConsumeFuel(true)
	engine := upstream.NewEngineWithConfig(config)
	t.Cleanup(engine.Close)
	store := upstream.NewStore(engine)
	t.Cleanup(store.Close)
	module, err := upstream.NewModule(engine, programs())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(module.Close)
	if err := store.SetFuel(math.MaxInt64); err != nil {
		t.Fatal(err)
	}
	inst, err := upstream.NewInstance(store, module, nil)
	if err != nil {
		t.Fatal(err)
	}
	return func(name string) func(uint64) error {
		f := inst.GetFunc(store, name)
		return func(n uint64) error {
			_, err := f.Call(store, int32(n))
			return err
		}
	}
}
