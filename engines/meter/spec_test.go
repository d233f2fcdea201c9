package meter_test

import (
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

func TestConformance(t *testing.T) { enginetest.Test(t, metered) }

func TestSpec(t *testing.T) {
	for _, c := range []struct {
		name   string
		engine func(testing.TB) engines.WasmEngine
		opts   engines.CompileOptions
	}{
		{"bare", bare, engines.CompileOptions{}},
		{"deadline", metered, engines.CompileOptions{Interruptible: true}},
		{"fuel", metered, engines.CompileOptions{Fuel: math.MaxInt64}},
		{"depth", metered, engines.CompileOptions{CallDepth: 10_000}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, version := range []string{"v1", "v2"} {
				t.Logf("spec %s, %s: %s", version, c.name, spec.Run(t, version, c.engine, c.opts))
			}
		})
	}
}
