package host_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/meter"
	"forgeone.dev/forgeone/engines/wazero"
	"forgeone.dev/forgeone/host"
)

func newMetered() (engines.WasmEngine, error) {
	e, err := wazero.New()
	if err != nil {
		return nil, err
	}
	return meter.Wrap(e, meter.Limits{}), nil
}

// BenchmarkCall is a call of a no-op export: by the bare engine; by the engine
// as it can be interrupted, by wazero itself and by metering; and through the
// hosts, recorded, with and without a timeout, which rests on metering.
func BenchmarkCall(b *testing.B) {
	for _, v := range []struct {
		name      string
		newEngine host.NewEngine
		opts      engines.CompileOptions
	}{
		{"engine", wazero.New, engines.CompileOptions{}},
		{"engine-close-on-done", wazero.New, engines.CompileOptions{Interruptible: true}},
		{"engine-metered", newMetered, engines.CompileOptions{Interruptible: true}},
	} {
		b.Run(v.name, func(b *testing.B) {
			e, err := v.newEngine()
			if err != nil {
				b.Fatal(err)
			}
			defer e.Close()
			m, err := e.Compile(context.Background(), addModule, v.opts)
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
	for _, v := range []struct {
		name    string
		timeout time.Duration
	}{{"wasmhost", host.NoTimeout}, {"wasmhost-timeout", host.DefaultExecutionTimeout}} {
		b.Run(v.name, func(b *testing.B) {
			h, err := host.NewWasmHost(newMetered, host.WithExecutionTimeout(v.timeout))
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
		h, err := host.NewPluginHost(host.WithEngine(newMetered), host.WithExecutionTimeout(host.NoTimeout))
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
