//go:build wasmtime

package wasmtime_test

import (
	"context"
	"maps"
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

// The vectors of the core specification hold, plain and metered.
func TestSpec(t *testing.T) {
	spec.Test(t, func(t testing.TB) engines.WasmEngine { return &together{WasmEngine: newEngine(t)} })
}

func BenchmarkOvershoot(b *testing.B) { enginetest.Overshoot(b, metered) }
