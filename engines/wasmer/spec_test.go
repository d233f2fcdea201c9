//go:build wasmer

package wasmer_test

import (
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest"
	"forgeone.dev/forgeone/engines/enginetest/spec"
	"forgeone.dev/forgeone/engines/meter"
)

// The vectors of the core specification hold, plain and metered.
func TestSpec(t *testing.T) { spec.Test(t, newEngine) }

func metered(t testing.TB) engines.WasmEngine { return meter.Wrap(newEngine(t), meter.Limits{}) }

func TestMeteredConformance(t *testing.T) { enginetest.Test(t, metered) }

func BenchmarkOvershoot(b *testing.B) { enginetest.Overshoot(b, metered) }
