package extism_test

import (
	"context"
	"testing"

	"forgeone.dev/forgeone/abi/extism"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/engines/wazero"
)

// BenchmarkCall is a call of a plugin that copies its input, on wazero as it is
// and with a deadline in the module, without gate or log for the call.
func BenchmarkCall(b *testing.B) {
	upstream, err := wazero.New()
	if err != nil {
		b.Fatal(err)
	}
	defer upstream.Close()
	var noop asm.Module
	noop.ImportFunc(extism.ModuleName, "alloc", sig("I", "I"))
	noop.Func("noop", sig("", ""), nil)
	for _, e := range []struct {
		name   string
		engine engines.WasmEngine
		opts   engines.CompileOptions
	}{
		{"wazero", upstream, engines.CompileOptions{}},
		{"interruptible", newEngine(b), engines.CompileOptions{Interruptible: true}},
		{"snapshots", newEngine(b), engines.CompileOptions{Interruptible: true, Snapshots: true}},
	} {
		for _, c := range []struct {
			name, function string
			wasm           []byte
			input          int
		}{
			{"noop", "noop", noop.Bytes(), 0},
			{"echo-64KiB", "echo", echo(), 64 << 10},
		} {
			b.Run(c.name+"/"+e.name, func(b *testing.B) {
				m, err := e.engine.Compile(context.Background(), c.wasm, e.opts)
				if err != nil {
					b.Fatal(err)
				}
				defer m.Close()
				binding, err := extism.New(context.Background(), e.engine, e.opts, m, extism.Config{})
				if err != nil {
					b.Fatal(err)
				}
				defer binding.Close()
				call := newWorld(b).begin(b)
				inst, err := binding.Instantiate(call)
				if err != nil {
					b.Fatal(err)
				}
				defer inst.Close()
				input := make([]byte, c.input)
				b.SetBytes(int64(c.input))
				for b.Loop() {
					if _, err := binding.Call(call, inst, c.function, input); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
