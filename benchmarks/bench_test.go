// Package benchmarks compares ForgeOne with Extism: the same work, done by a Go
// plugin for each, in one run. It is a module of its own, so that rivals are not
// among what the product depends on.
package benchmarks_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	extism "github.com/extism/go-sdk"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/abi/forge"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/versus"
	"forgeone.dev/forgeone/engines/meter"
	"forgeone.dev/forgeone/engines/wazero"
	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/syscalls"
	"forgeone.dev/forgeone/zta"
)

var ctx = context.Background()

// wasm is where the plugins are: extism.wasm and forge.wasm.
var wasm string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "fo")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		wasm = dir
		for _, name := range []string{"extism", "forge"} {
			cmd := exec.Command("go", "build", "-buildmode=c-shared", "-o", plugin(name), "./plugins/"+name)
			cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "build the plugin %s: %v\n%s", name, err, out)
				return 1
			}
		}
		return m.Run()
	}())
}

func plugin(name string) string { return filepath.Join(wasm, name+".wasm") }

// caller calls a function of a plugin.
type caller func(function string, input []byte) ([]byte, error)

// work are the calls that are measured, with what they must return.
var work = []struct {
	name, function string
	input          []byte
	want           string
}{
	{"noop", "noop", nil, ""},
	{"vowels-26B", "count_vowels", []byte("abcdefghijklmnopqrstuvwxyz"), `{"count":5}`},
	{"vowels-64KiB", "count_vowels", bytes.Repeat([]byte("aeiou---"), 8<<10), `{"count":40960}`},
}

// rival does one of the calls, and looks at what it returns.
func (call caller) rival(name string, w int) versus.Rival {
	return versus.Rival{Name: name, Do: func() error {
		out, err := call(work[w].function, work[w].input)
		if err == nil && string(out) != work[w].want {
			err = fmt.Errorf("it returned %q, not %q", out, work[w].want)
		}
		return err
	}}
}

// BenchmarkCall is a call of a plugin that is there. Each has 30 seconds for a
// call, but for "extism", which has no limit:
//
//	extism          Extism's SDK, the instance kept from call to call
//	extism-timeout  the same
//	engine          ForgeOne's engine and ABI alone, kept: no host, policy or log for the call
//	engine-restore  the same, and after each call the instance is made pristine again
//	host-keep       ForgeOne's host: policy and audit log on, the instance kept
//	host            the same, each call with a pristine instance, as is the default
//	host-extism     Extism's plugin on ForgeOne's host, kept as is the default: the
//	                same file as "extism"
func BenchmarkCall(b *testing.B) {
	rivals := []struct {
		name string
		call caller
	}{
		{"extism", newExtism(b, 0).kept(b)},
		{"extism-timeout", newExtism(b, timeout).kept(b)},
		{"engine", newForge(b).kept},
		{"engine-restore", newForge(b).restored},
		{"host-keep", newHost(b, "forge", host.StateKeep)},
		{"host", newHost(b, "forge", host.StatePristine)},
		{"host-extism", newHost(b, "extism", host.StateKeep)},
	}
	for w := range work {
		b.Run(work[w].name, func(b *testing.B) {
			var list []versus.Rival
			for _, r := range rivals {
				list = append(list, r.call.rival(r.name, w))
			}
			versus.Run(b, list...)
		})
	}
}

// BenchmarkInstance is a new instance of a plugin that is compiled, its first
// call, and its end: Extism's, and those of ForgeOne's engine, by the start of
// the plugin or from an image of it as it had started.
func BenchmarkInstance(b *testing.B) {
	unlimited, limited, f := newExtism(b, 0), newExtism(b, timeout), newForge(b)
	for w := range work {
		b.Run(work[w].name, func(b *testing.B) {
			versus.Run(b,
				caller(unlimited.once).rival("extism", w),
				caller(limited.once).rival("extism-timeout", w),
				caller(f.started).rival("engine-start", w),
				caller(f.fromImage).rival("engine-image", w),
			)
		})
	}
}

// BenchmarkLoad is all of it: to read, compile and start a plugin, call it once
// and close it. ForgeOne's host opens a log and takes an image of the plugin
// besides.
func BenchmarkLoad(b *testing.B) {
	load := func(function string, input []byte) ([]byte, error) {
		p := openExtism(b, timeout)
		out, err := p.once(function, input)
		return out, errors.Join(err, p.Close(ctx))
	}
	loadHost := func(function string, input []byte) ([]byte, error) {
		call, end := openHost(b, "forge", host.StatePristine)
		defer end()
		return call(function, input)
	}
	b.Run(work[0].name, func(b *testing.B) {
		versus.Run(b, caller(load).rival("extism-timeout", 0), caller(loadHost).rival("host", 0))
	})
}

const timeout = host.DefaultExecutionTimeout

type extismPlugin struct{ *extism.CompiledPlugin }

func openExtism(b *testing.B, limit time.Duration) extismPlugin {
	b.Helper()
	manifest := extism.Manifest{
		Wasm:    []extism.Wasm{extism.WasmFile{Path: plugin("extism")}},
		Timeout: uint64(limit.Milliseconds()),
	}
	compiled, err := extism.NewCompiledPlugin(ctx, manifest, extism.PluginConfig{EnableWasi: true}, nil)
	if err != nil {
		b.Fatal(err)
	}
	return extismPlugin{compiled}
}

func newExtism(b *testing.B, limit time.Duration) extismPlugin {
	b.Helper()
	p := openExtism(b, limit)
	b.Cleanup(func() { _ = p.Close(ctx) })
	return p
}

// kept is an instance that is kept.
func (p extismPlugin) kept(b *testing.B) caller {
	b.Helper()
	inst, err := p.Instance(ctx, extism.PluginInstanceConfig{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = inst.Close(ctx) })
	return callExtism(inst)
}

func callExtism(inst *extism.Plugin) caller {
	return func(function string, input []byte) ([]byte, error) {
		_, out, err := inst.Call(function, input)
		return out, err
	}
}

// once calls a new instance.
func (p extismPlugin) once(function string, input []byte) ([]byte, error) {
	inst, err := p.Instance(ctx, extism.PluginInstanceConfig{})
	if err != nil {
		return nil, err
	}
	out, err := callExtism(inst)(function, input)
	return out, errors.Join(err, inst.Close(ctx))
}

// forgePlugin is a plugin on ForgeOne's engine, without a host: what it asks of
// the system goes through a gate, as part of one call that all calls here are in.
type forgePlugin struct {
	module  engines.Module
	binding *forge.Binding
	call    *abi.Call
	image   engines.Snapshot
	inst    *remembering
}

func newForge(b *testing.B) forgePlugin {
	b.Helper()
	h, end := newPluginHost(b)
	b.Cleanup(end)
	call, err := h.Gate().Begin(ctx, &abi.Subject{
		Plugin: "p", Identity: zta.Identity{ID: "i", TrustVector: zta.Signed},
		TrustLevel: capability.Limited, Capabilities: grants(b), Container: abi.NewContainer("c"),
	}, "bench", nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { call.End(nil, nil) })
	e, err := newEngine()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.Close() })
	bytes, err := os.ReadFile(plugin("forge"))
	if err != nil {
		b.Fatal(err)
	}
	f := forgePlugin{call: call}
	opts := engines.CompileOptions{MemoryLimitPages: host.DefaultMemoryLimit / engines.PageSize, Interruptible: true, Snapshots: true}
	if f.module, err = e.Compile(ctx, bytes, opts); err != nil {
		b.Fatal(err)
	}
	if f.binding, err = forge.New(f.module); err != nil {
		b.Fatal(err)
	}
	started, err := f.binding.Instantiate(call, f.module)
	if err != nil {
		b.Fatal(err)
	}
	if f.image, err = f.module.(engines.Snapshotter).Snapshot(started); err != nil {
		b.Fatal(err)
	}
	inst, err := f.image.Instantiate(ctx, engines.Imports{Host: f.binding.HostModules()})
	if err != nil {
		b.Fatal(err)
	}
	f.inst = &remembering{inst, make(map[string]engines.Func)}
	b.Cleanup(func() { _ = errors.Join(inst.Close(), f.image.Close(), started.Close()) })
	return f
}

// kept calls an instance that is kept.
func (f forgePlugin) kept(function string, input []byte) ([]byte, error) {
	return f.binding.Call(f.call, f.inst, function, input)
}

// restored puts it back after.
func (f forgePlugin) restored(function string, input []byte) ([]byte, error) {
	out, err := f.kept(function, input)
	if !f.image.Restore(f.inst.Instance) {
		return nil, errors.New("the instance cannot be put back")
	}
	return out, err
}

// started calls an instance that is started anew, and fromImage one of the image.
func (f forgePlugin) started(function string, input []byte) ([]byte, error) {
	inst, err := f.binding.Instantiate(f.call, f.module)
	return f.once(inst, err, function, input)
}

func (f forgePlugin) fromImage(function string, input []byte) ([]byte, error) {
	inst, err := f.image.Instantiate(ctx, engines.Imports{Host: f.binding.HostModules()})
	return f.once(inst, err, function, input)
}

func (f forgePlugin) once(inst engines.Instance, err error, function string, input []byte) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	out, err := f.binding.Call(f.call, inst, function, input)
	return out, errors.Join(err, inst.Close())
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

func newEngine() (engines.WasmEngine, error) {
	e, err := wazero.New()
	if err != nil {
		return nil, err
	}
	return meter.Wrap(e, meter.Limits{}), nil
}

func grants(b *testing.B) capability.Set {
	b.Helper()
	set, err := capability.New(capability.Grant{Syscalls: []string{"time_*", "random_get", "stdio_write"}})
	if err != nil {
		b.Fatal(err)
	}
	return set
}

// newPluginHost is a host with a policy and a log.
func newPluginHost(b *testing.B) (*host.PluginHost, func()) {
	b.Helper()
	reg := &abi.SyscallRegistry{}
	if err := reg.Register(syscalls.Registrations(syscalls.Options{})...); err != nil {
		b.Fatal(err)
	}
	h, err := host.NewPluginHost(host.WithEngine(newEngine), host.WithSyscalls(reg),
		host.WithPolicies(zta.Enforce, zta.Policy{Name: "all", Syscalls: []string{"*"}}))
	if err != nil {
		b.Fatal(err)
	}
	return h, func() {
		_ = h.Close(ctx)
		_ = os.RemoveAll(h.AuditDir())
	}
}

// openHost loads and starts a plugin in a host of its own.
func openHost(b *testing.B, name string, state host.State) (caller, func()) {
	b.Helper()
	h, end := newPluginHost(b)
	id, err := h.LoadPlugin(ctx, host.PluginConfig{
		Name: name, WasmModule: plugin(name), TrustLevel: capability.Limited, Capabilities: grants(b), State: state,
	})
	if err == nil {
		err = h.StartPlugin(ctx, id)
	}
	if err != nil {
		end()
		b.Fatal(err)
	}
	return func(function string, input []byte) ([]byte, error) { return h.Call(ctx, id, function, input) }, end
}

func newHost(b *testing.B, name string, state host.State) caller {
	b.Helper()
	call, end := openHost(b, name, state)
	b.Cleanup(end)
	return call
}
