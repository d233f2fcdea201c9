//go:build wasmer

package meter_test

import (
	"math"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest"
	"forgeone.dev/forgeone/engines/meter"
	"forgeone.dev/forgeone/engines/wasmer"
)

// An engine that cannot interrupt, and has no fuel, has both.
func TestWasmer(t *testing.T) {
	newEngine := func(t testing.TB) engines.WasmEngine {
		e, err := wasmer.New()
		if err != nil {
			t.Fatal(err)
		}
		return meter.Wrap(e, meter.Limits{})
	}
	t.Run("as asked", func(t *testing.T) { enginetest.Test(t, newEngine) })
	t.Run("attackers", func(t *testing.T) { testAttackers(t, newEngine) })
	t.Run("always", func(t *testing.T) {
		enginetest.Test(t, func(t testing.TB) engines.WasmEngine {
			return forced{newEngine(t), engines.CompileOptions{Interruptible: true, Fuel: math.MaxUint64}}
		})
	})
}
