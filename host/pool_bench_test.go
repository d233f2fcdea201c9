package host_test

import (
	"context"
	"os"
	"testing"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/abi/forge"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/syscalls"
	"forgeone.dev/forgeone/zta"
)

// withoutImages is an engine that cannot capture instances.
type withoutImages struct{ engines.WasmEngine }

func (e withoutImages) Info() engines.Info {
	info := e.WasmEngine.Info()
	info.Snapshots = false
	return info
}

// BenchmarkGoGuest is a call of a Go plugin that finds its input empty and says
// so. First by the engine and the ABI alone: the call, and the call of an
// instance that is then put back. Then by the host, recorded, by where the
// instance comes from: one that waits, as is the default; a new one from the
// image; one that is started anew, as where there can be no image; and one that
// is kept.
func BenchmarkGoGuest(b *testing.B) {
	for _, restore := range []bool{false, true} {
		b.Run(map[bool]string{false: "engine", true: "engine-restore"}[restore], func(b *testing.B) { benchEngine(b, restore) })
	}
	for _, v := range []struct {
		name   string
		engine host.NewEngine
		change func(*host.PluginConfig)
	}{
		{"kept", sharedEngine, func(c *host.PluginConfig) { c.State = host.StateKeep }},
		{"pool", sharedEngine, func(*host.PluginConfig) {}},
		{"pool-no-timeout", sharedEngine, func(c *host.PluginConfig) { c.Limits.Timeout = host.NoTimeout }},
		{"image", sharedEngine, func(c *host.PluginConfig) { c.Pool.MaxIdle = host.NoIdle }},
		{"anew", func() (engines.WasmEngine, error) {
			e, err := sharedEngine()
			return withoutImages{e}, err
		}, func(*host.PluginConfig) {}},
	} {
		b.Run(v.name, func(b *testing.B) {
			h, err := host.NewPluginHost(append(benchHost(b), host.WithEngine(v.engine))...)
			if err != nil {
				b.Fatal(err)
			}
			defer os.RemoveAll(h.AuditDir())
			defer h.Close(context.Background())
			cfg := host.PluginConfig{Name: "summarise", WasmModule: artifacts.summariseWasm, TrustLevel: capability.Limited, Capabilities: goGrants(b)}
			v.change(&cfg)
			id, err := h.LoadPlugin(ctx, cfg)
			if err != nil {
				b.Fatal(err)
			}
			if err := h.StartPlugin(ctx, id); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := h.Call(ctx, id, "summarise", nil); err == nil {
					b.Fatal("it takes an empty input")
				}
			}
		})
	}
}

// benchHost is what a Go guest needs of a host.
func benchHost(b *testing.B) []host.Option {
	b.Helper()
	reg := &abi.SyscallRegistry{}
	if err := reg.Register(syscalls.Registrations(syscalls.Options{})...); err != nil {
		b.Fatal(err)
	}
	return []host.Option{host.WithSyscalls(reg), host.WithPolicies(zta.Enforce, zta.Policy{Name: "all", Syscalls: []string{"*"}})}
}

func goGrants(b *testing.B) capability.Set {
	b.Helper()
	set, err := capability.New(capability.Grant{Syscalls: []string{"time_*", "random_get", "stdio_write"}})
	if err != nil {
		b.Fatal(err)
	}
	return set
}

func benchEngine(b *testing.B, restore bool) {
	h, err := host.NewPluginHost(benchHost(b)...)
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(h.AuditDir())
	defer h.Close(context.Background())
	call, err := h.Gate().Begin(ctx, &abi.Subject{Plugin: "p", Identity: zta.Identity{ID: "i", TrustVector: zta.Signed},
		TrustLevel: capability.Limited, Capabilities: goGrants(b), Container: abi.NewContainer("c")}, "bench", nil)
	if err != nil {
		b.Fatal(err)
	}
	defer call.End(nil, nil)
	e, err := sharedEngine()
	if err != nil {
		b.Fatal(err)
	}
	wasm, err := os.ReadFile(artifacts.summariseWasm)
	if err != nil {
		b.Fatal(err)
	}
	m, err := e.Compile(ctx, wasm, engines.CompileOptions{MemoryLimitPages: host.DefaultMemoryLimit / engines.PageSize, Interruptible: true, Snapshots: true})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	binding, err := forge.New(m)
	if err != nil {
		b.Fatal(err)
	}
	started, err := binding.Instantiate(call, m)
	if err != nil {
		b.Fatal(err)
	}
	defer started.Close()
	image, err := m.(engines.Snapshotter).Snapshot(started)
	if err != nil {
		b.Fatal(err)
	}
	defer image.Close()
	made, err := image.Instantiate(ctx, engines.Imports{Host: binding.HostModules()})
	if err != nil {
		b.Fatal(err)
	}
	defer made.Close()
	inst := &remembering{made, map[string]engines.Func{}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := binding.Call(call, inst, "summarise", nil); err == nil {
			b.Fatal("it takes an empty input")
		}
		if restore && !image.Restore(made) {
			b.Fatal("it cannot be put back")
		}
	}
}

// remembering is an instance as a host keeps it: it looks each function up once.
type remembering struct {
	engines.Instance
	funcs map[string]engines.Func
}

func (r *remembering) Func(name string) (engines.Func, error) {
	if f, ok := r.funcs[name]; ok {
		return f, nil
	}
	f, err := r.Instance.Func(name)
	r.funcs[name] = f
	return f, err
}
