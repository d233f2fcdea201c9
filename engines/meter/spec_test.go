package meter_test

import (
	"cmp"
	"context"
	"math"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest"
	"forgeone.dev/forgeone/engines/enginetest/spec"
	"forgeone.dev/forgeone/engines/meter"
	"forgeone.dev/forgeone/engines/wazero"
)

func bare(t testing.TB) engines.WasmEngine {
	t.Helper()
	e, err := wazero.New()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func metered(t testing.TB) engines.WasmEngine {
	t.Helper()
	return meter.Wrap(bare(t), meter.Limits{})
}

// forced compiles all with options of its own, beside those asked for.
type forced struct {
	engines.WasmEngine
	opts engines.CompileOptions
}

func (f forced) Compile(ctx context.Context, wasm []byte, opts engines.CompileOptions) (engines.Module, error) {
	opts.Interruptible = opts.Interruptible || f.opts.Interruptible
	opts.Fuel, opts.CallDepth = cmp.Or(opts.Fuel, f.opts.Fuel), cmp.Or(opts.CallDepth, f.opts.CallDepth)
	return f.WasmEngine.Compile(ctx, wasm, opts)
}

// The contract holds whatever a module is metered for.
func TestConformance(t *testing.T) {
	t.Run("as asked", func(t *testing.T) { enginetest.Test(t, metered) })
	t.Run("always", func(t *testing.T) {
		enginetest.Test(t, func(t testing.TB) engines.WasmEngine {
			return forced{metered(t), engines.CompileOptions{Interruptible: true, Fuel: math.MaxUint64, CallDepth: 100_000}}
		})
	})
}

// The vectors of the core specification hold in modules that are rewritten.
func TestSpec(t *testing.T) {
	for _, mode := range []string{"deadline", "fuel"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			spec.Test(t, bare, mode)
		})
	}
}

func BenchmarkOvershoot(b *testing.B) { enginetest.Overshoot(b, metered) }
