//go:build wasmer

package meter_test

import (
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/meter"
	"forgeone.dev/forgeone/engines/wasmer"
)

// BenchmarkWasmer is as BenchmarkWazero. Wasmer's Go binding has no limits of
// its own to compare with.
func BenchmarkWasmer(b *testing.B) {
	bare := func(t testing.TB) engines.WasmEngine {
		e, err := wasmer.New()
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	benchmark(b, limits(bare, func(t testing.TB) engines.WasmEngine { return meter.Wrap(bare(t), meter.Limits{}) }))
}
