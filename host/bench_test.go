package host_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/wazero"
	"forgeone.dev/forgeone/host"
)

// BenchmarkCall is a call of a no-op export: by the bare engine, as it is and
// made interruptible (which a host that holds a timeout needs), and through
// the hosts, recorded, with and without a timeout.
func BenchmarkCall(b *testing.B) {
	for name, interruptible := range map[string]bool{"engine": false, "engine-interruptible": true} {
		b.Run(name, func(b *testing.B) {
			e, err := wazero.New()
			if err != nil {
				b.Fatal(err)
			}
			defer e.Close()
			m, err := e.Compile(context.Background(), addModule, engines.CompileOptions{Interruptible: interruptible})
			if err != nil {
				b.Fatal(err)
			}
			inst, err := m.Instantiate(context.Background(), engines.Imports{})
			if err != nil {
				b.Fatal(err)
			}
			f, err := inst.Func("add")
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			b.ReportAllocs()
			for b.Loop() {
				if err := f.Call(ctx, []uint64{1, 2}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	for name, timeout := range map[string]host.Option{"wasmhost": host.WithExecutionTimeout(host.NoTimeout), "wasmhost-timeout": host.WithExecutionTimeout(host.DefaultExecutionTimeout)} {
		b.Run(name, func(b *testing.B) {
			h, err := host.NewWasmHost(wazero.New, timeout)
			if err != nil {
				b.Fatal(err)
			}
			defer os.RemoveAll(h.AuditDir())
			defer h.Close()
			if _, err := h.LoadModule(context.Background(), "m", addModule); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := h.CallFunction(context.Background(), "m", "add", engines.ValueI32(1), engines.ValueI32(2)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("pluginhost", func(b *testing.B) {
		path := filepath.Join(b.TempDir(), "add.wasm")
		if err := os.WriteFile(path, addModule, 0o600); err != nil {
			b.Fatal(err)
		}
		h, err := host.NewPluginHost(host.WithEngine(wazero.New), host.WithExecutionTimeout(host.NoTimeout))
		if err != nil {
			b.Fatal(err)
		}
		defer os.RemoveAll(h.AuditDir())
		defer h.Close(context.Background())
		id, err := h.LoadPlugin(context.Background(), host.PluginConfig{Name: "add", WasmModule: path, TrustLevel: capability.Limited})
		if err != nil {
			b.Fatal(err)
		}
		if err := h.StartPlugin(context.Background(), id); err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := h.Call(context.Background(), id, "add", []byte("1 2")); err != nil {
				b.Fatal(err)
			}
		}
	})
}
