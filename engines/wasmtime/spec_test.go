//go:build wasmtime

package wasmtime_test

import (
	"context"
	"maps"
	"math"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest"
	"forgeone.dev/forgeone/engines/enginetest/spec"
	"forgeone.dev/forgeone/engines/meter"
)

func metered(t testing.TB) engines.WasmEngine {
	t.Helper()
	return meter.Wrap(newEngine(t), meter.Limits{})
}

func TestMeteredConformance(t *testing.T) { enginetest.Test(t, metered) }

// together is an engine whose instances all live in one store, so that any can
// import from any others, as the scripts of the specification have it.
type together struct {
	engines.WasmEngine
	first engines.Instance
}

type togetherModule struct {
	engines.Module
	engine *together
}

func (e *together) Compile(ctx context.Context, wasm []byte, opts engines.CompileOptions) (engines.Module, error) {
	m, err := e.WasmEngine.Compile(ctx, wasm, opts)
	if err != nil {
		return nil, err
	}
	return togetherModule{m, e}, nil
}

func (m togetherModule) Instantiate(ctx context.Context, imports engines.Imports) (engines.Instance, error) {
	if m.engine.first != nil {
		imports.Instances = maps.Clone(imports.Instances)
		imports.Instances["a name that nothing is imported from"] = m.engine.first
	}
	inst, err := m.Module.Instantiate(ctx, imports)
	if m.engine.first == nil {
		m.engine.first = inst
	}
	return inst, err
}

// The vectors of the core specification 2.0 hold, plain and with limits.
func TestSpec(t *testing.T) {
	bare := func(t testing.TB) engines.WasmEngine { return &together{WasmEngine: newEngine(t)} }
	for _, c := range []struct {
		name   string
		engine func(testing.TB) engines.WasmEngine
		opts   engines.CompileOptions
	}{
		{"bare", bare, engines.CompileOptions{}},
		{"interruptible", bare, engines.CompileOptions{Interruptible: true}},
		{"fuel", func(t testing.TB) engines.WasmEngine { return meter.Wrap(bare(t), meter.Limits{}) }, engines.CompileOptions{Fuel: math.MaxInt64}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Logf("spec v2, %s: %s", c.name, spec.Run(t, "v2", c.engine, c.opts))
		})
	}
}
