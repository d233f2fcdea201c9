package benchmarks_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	extism "github.com/extism/go-sdk"

	"forgeone.dev/forgeone/abi"
	forge "forgeone.dev/forgeone/abi/extism"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/versus"
	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/syscalls"
	"forgeone.dev/forgeone/zta"
)

// sdkDir is where Extism's SDK lies, with the plugins that it is tested with.
var sdkDir = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/extism/go-sdk").Output()
	return strings.TrimSpace(string(out)), err
})

func sdkPlugin(t testing.TB, name string) string {
	t.Helper()
	dir, err := sdkDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "wasm", name+".wasm")
}

// step is a call of a function, or of several instances one after the other.
type step struct{ function, input string }

// sdkPlugins are the plugins that ship with Extism's SDK, with what is called of
// them: on one instance, in that order. Those that are refused say why.
var sdkPlugins = map[string]struct {
	config  map[string]string
	mount   string // of a directory with test.txt
	writes  bool
	steps   []step
	refused string
}{
	"alloc":            {steps: []step{{"run_test", ""}, {"run_test", "x"}, {"run_test", ""}}},
	"config":           {config: map[string]string{"thing": "cool"}, steps: []step{{"run_test", ""}}},
	"count_vowels":     {steps: []step{{"count_vowels", "hello world"}, {"count_vowels", ""}, {"count_vowels", strings.Repeat("aeiouäé-", 9000)}, {"count_vowels", "bbba"}, {"nothing", ""}}},
	"count_vowels_std": {steps: []step{{"_start", "hello world"}}},
	"exit":             {config: map[string]string{"code": "500"}, steps: []step{{"_start", ""}}},
	"fail":             {steps: []step{{"run_test", ""}, {"run_test", ""}}},
	"fs":               {mount: "/mnt", steps: []step{{"run_test", ""}}},
	"fs_std":           {mount: "/mnt", steps: []step{{"run_test", ""}, {"nothing", ""}}},
	"hello":            {steps: []step{{"run_test", ""}, {"run_test", "again"}}},
	"hello_haskell":    {config: map[string]string{"greeting": "Howdy"}, steps: []step{{"testing", "John"}, {"testing", "Jane"}}},
	"host":             {steps: []step{{"run_test", ""}, {"run_test", ""}}},
	"host_memory":      {steps: []step{{"run_test", "Frodo"}, {"run_test", ""}}},
	"host_multiple":    {steps: []step{{"say_green", "John Doe"}, {"say_purple", "Jane Doe"}}},
	"http":             {steps: []step{{"run_test", ""}}}, // denied by both
	"http_headers":     {steps: []step{{"http_get", `{"url":"https://extism.org"}`}}},
	"input_offset":     {steps: []step{{"input_offset_length", "hello world"}, {"input_offset_length", ""}}},
	"lib":              {steps: []step{{"_start", ""}}},
	"log":              {steps: []step{{"run_test", ""}}},
	"main":             {refused: "lib.capitalize"},
	"nested.c.instr":   {refused: "dylibso_observe.instrument_enter"},
	"noop":             {steps: []step{{"run_test", ""}, {"run_test", "x"}}},
	"println":          {steps: []step{{"run_test", "some text"}, {"run_test", ""}}},
	"read_write":       {config: map[string]string{"path": "/mnt/test.txt"}, mount: "/mnt", writes: true, steps: []step{{"try_read", ""}, {"try_write", "new"}, {"try_read", ""}}},
	"replace":          {steps: []step{{"run_test", "hello world"}, {"run_test", strings.Repeat("xyz ", 20000)}}},
	"sleep":            {config: map[string]string{"duration": "0"}, steps: []step{{"run_test", ""}}},
	"std_command":      {steps: []step{{"_start", "ben"}}},
	"var":              {steps: []step{{"run_test", ""}, {"run_test", ""}}},
}

// hostFunctions are those that the plugins import: Extism's, and the syscalls that
// they are on ForgeOne, with how they are imported.
func hostFunctions() ([]extism.HostFunction, []abi.Registration, []forge.HostFunction) {
	var theirs []extism.HostFunction
	var calls []abi.Registration
	var ours []forge.HostFunction
	text := func(module, name, syscall string, f func(string) string) {
		fn := extism.NewHostFunctionWithStack(name, func(_ context.Context, p *extism.CurrentPlugin, stack []uint64) {
			in, err := p.ReadString(stack[0])
			if err != nil {
				panic(err)
			}
			if stack[0], err = p.WriteString(f(in)); err != nil {
				panic(err)
			}
		}, []extism.ValueType{extism.ValueTypePTR}, []extism.ValueType{extism.ValueTypePTR})
		fn.SetNamespace(module)
		theirs = append(theirs, fn)
		calls = append(calls, abi.Registration{Name: syscall, MinTrust: capability.Limited,
			Handler: func(_ context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
				return []byte(f(string(sc.Payload))), nil
			}})
		ours = append(ours, forge.HostFunction{Module: module, Name: name, Syscall: syscall, Params: []forge.Kind{forge.Bytes}, Result: forge.Bytes})
	}
	text(forge.UserModule, "hostGreenMessage", "own_green", func(s string) string { return "green: " + s })
	text(forge.UserModule, "hostPurpleMessage", "own_purple", func(s string) string { return "purple: " + s })
	text("host", "to_upper", "own_upper", strings.ToUpper)

	theirs = append(theirs, extism.NewHostFunctionWithStack("mult", func(_ context.Context, _ *extism.CurrentPlugin, stack []uint64) {
		stack[0] *= stack[1]
	}, []extism.ValueType{extism.ValueTypePTR, extism.ValueTypePTR}, []extism.ValueType{extism.ValueTypePTR}))
	calls = append(calls, abi.Registration{Name: "own_mult", Args: []string{"a", "b"}, MinTrust: capability.Limited,
		Handler: func(_ context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
			a, errA := strconv.ParseInt(sc.Args[0], 10, 64)
			b, errB := strconv.ParseInt(sc.Args[1], 10, 64)
			return strconv.AppendInt(nil, a*b, 10), errors.Join(errA, errB)
		}})
	ours = append(ours, forge.HostFunction{Name: "mult", Syscall: "own_mult", Params: []forge.Kind{forge.Number, forge.Number}, Result: forge.Number})
	return theirs, calls, ours
}

// result is what came of a step.
type result struct {
	output string
	failed bool
	code   uint32
}

// TestExtismPlugins runs all of them, on both, and compares what they return.
func TestExtismPlugins(t *testing.T) {
	dir, err := sdkDir()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "wasm", "*.wasm"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no plugins: %v", err)
	}
	var names []string
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".wasm"))
	}
	if want := slices.Sorted(maps.Keys(sdkPlugins)); !slices.Equal(names, want) {
		t.Errorf("the SDK has %v, and those that are known are %v", names, want)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			p := sdkPlugins[name]
			mounts := [2]string{t.TempDir(), t.TempDir()}
			for _, m := range mounts {
				if err := os.WriteFile(filepath.Join(m, "test.txt"), []byte("hello world!"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			pc := host.PluginConfig{Name: name, WasmModule: sdkPlugin(t, name), Config: p.config}
			if p.mount != "" {
				pc.Mounts = []host.Mount{{Guest: p.mount, Host: mounts[1]}}
			}
			if p.refused != "" {
				_, end, err := openPlugin(t, pc)
				defer end()
				if err == nil || !strings.Contains(err.Error(), p.refused) {
					t.Errorf("got %v, want a refusal that names %s", err, p.refused)
				}
				return
			}
			want := onExtism(t, name, mounts[0])
			call, end, err := openPlugin(t, pc)
			defer end()
			if err != nil {
				t.Fatal(err)
			}
			for i, s := range p.steps {
				out, err := call(s.function, []byte(s.input))
				got := result{output: string(out), failed: err != nil}
				failed, own := errors.AsType[*host.FunctionError](err)
				if own {
					got.code = uint32(failed.Code)
				}
				if got.failed != want[i].failed || got.output != want[i].output || own && got.code != want[i].code {
					t.Errorf("%s(%.20q): %+v (%v); Extism's: %+v", s.function, s.input, got, err, want[i])
				}
			}
			var texts [2]string
			for i, m := range mounts {
				b, err := os.ReadFile(filepath.Join(m, "test.txt"))
				if err != nil {
					t.Fatal(err)
				}
				texts[i] = string(b)
			}
			if texts[0] != texts[1] {
				t.Errorf("the file says %q, Extism's %q", texts[1], texts[0])
			}
		})
	}
}

// TestExtismHTTP makes requests by a plugin of the SDK to a server of the test's.
func TestExtismHTTP(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Date"] = nil
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/there?"+r.URL.RawQuery, http.StatusFound)
		case "/missing":
			http.NotFound(w, r)
		default:
			w.Header().Add("X-Many", "1")
			w.Header().Add("X-Many", "2")
			fmt.Fprintf(w, "%s %s %s", r.Method, r.URL, r.Header.Get("X-Sent"))
		}
	}))
	defer s.Close()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := extism.NewPlugin(ctx, extism.Manifest{
		Wasm: []extism.Wasm{extism.WasmFile{Path: sdkPlugin(t, "http_headers")}}, AllowedHosts: []string{u.Hostname()},
	}, extism.PluginConfig{EnableWasi: true, EnableHttpResponseHeaders: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close(ctx)
	ours, end, err := openPlugin(t, host.PluginConfig{Name: "http", WasmModule: sdkPlugin(t, "http_headers")}, "net://tcp/127.0.0.1:"+u.Port(), "net://internal/tcp/127.0.0.1:"+u.Port())
	defer end()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/", "/moved?a=b", "/missing"} {
		for _, request := range []string{
			fmt.Sprintf(`{"url":%q}`, s.URL+path),
			fmt.Sprintf(`{"url":%q,"method":"POST","headers":{"x-sent":"yes"}}`, s.URL+path),
		} {
			code, want, errTheirs := theirs.Call("http_get", []byte(request))
			got, err := ours("http_get", []byte(request))
			if errTheirs == nil && code == 0 && len(want) == 0 {
				t.Errorf("%s: Extism's output is empty", request)
			}
			if (err != nil) != (errTheirs != nil || code != 0) || err == nil && !bytes.Equal(got, want) {
				t.Errorf("%s: %q (%v); Extism's: %q (%v)", request, got, err, want, errTheirs)
			}
		}
	}
	if _, err := ours("http_get", []byte(`{"url":"http://127.0.0.1:1/"}`)); err == nil || !strings.Contains(err.Error(), "http_request: blocked: ") {
		t.Errorf("what is not granted: %v", err)
	}
}

// onExtism does the steps on Extism's own SDK.
func onExtism(t *testing.T, name, dir string) []result {
	t.Helper()
	p := sdkPlugins[name]
	manifest := extism.Manifest{Wasm: []extism.Wasm{extism.WasmFile{Path: sdkPlugin(t, name)}}, Config: p.config}
	if p.mount != "" {
		manifest.AllowedPaths = map[string]string{dir: p.mount}
	}
	theirs, _, _ := hostFunctions()
	inst, err := extism.NewPlugin(ctx, manifest, extism.PluginConfig{EnableWasi: true}, theirs)
	if err != nil {
		t.Fatal(err)
	}
	defer inst.Close(ctx)
	var results []result
	for _, s := range p.steps {
		code, out, err := inst.Call(s.function, []byte(s.input))
		r := result{output: string(out), failed: err != nil || code != 0, code: code}
		if r.failed {
			r.output = ""
		}
		results = append(results, r)
	}
	return results
}

// openPlugin loads and starts an Extism plugin in a host of its own, with all that
// it could want, of the network what resources say.
func openPlugin(t testing.TB, pc host.PluginConfig, resources ...string) (caller, func(), error) {
	t.Helper()
	reg := &abi.SyscallRegistry{}
	_, own, functions := hostFunctions()
	if err := reg.Register(append(syscalls.Registrations(syscalls.Options{}), own...)...); err != nil {
		t.Fatal(err)
	}
	pc.HostFunctions = functions
	h, err := host.NewPluginHost(host.WithEngine(newEngine), host.WithSyscalls(reg),
		host.WithPolicies(zta.Enforce, zta.Policy{Name: "all", Syscalls: []string{"*"}}))
	if err != nil {
		t.Fatal(err)
	}
	end := func() {
		_ = h.Close(ctx)
		_ = os.RemoveAll(h.AuditDir())
	}
	grant := capability.Grant{Syscalls: []string{"time_*", "random_get", "stdio_*", "log_write", "file_*", "own_*", "http_request", "net_connect"}, Resources: resources}
	for _, m := range pc.Mounts {
		grant.Resources = append(grant.Resources, "file://"+m.Guest, "file://"+m.Guest+"/**")
	}
	if pc.Capabilities, err = capability.New(grant); err != nil {
		t.Fatal(err)
	}
	pc.TrustLevel, pc.ABI = capability.Standard, host.ABIExtism
	id, err := h.LoadPlugin(ctx, pc)
	if err == nil {
		err = h.StartPlugin(ctx, id)
	}
	return func(function string, input []byte) ([]byte, error) { return h.Call(ctx, id, function, input) }, end, err
}

// sdkWork are calls of the SDK's plugins, with what they must return. Counts of
// an instance add up, so its total is not looked at.
var sdkWork = []struct {
	name, plugin, function string
	input                  []byte
	want                   string // how it begins
}{
	{"noop", "noop", "run_test", nil, ""},
	{"vowels-26B", "count_vowels", "count_vowels", []byte("abcdefghijklmnopqrstuvwxyz"), `{"count":5,`},
	{"host-function", "host", "run_test", nil, "42 x 2 = 84"},
	{"vowels-64KiB", "count_vowels", "count_vowels", bytes.Repeat([]byte("aeiou---"), 8<<10), `{"count":40960,`},
}

// sdkRival does one of the calls.
func (call caller) sdkRival(name string, w int) versus.Rival {
	return versus.Rival{Name: name, Do: func() error {
		out, err := call(sdkWork[w].function, sdkWork[w].input)
		if err == nil && !bytes.HasPrefix(out, []byte(sdkWork[w].want)) {
			err = fmt.Errorf("it returned %q", out)
		}
		return err
	}}
}

func compileExtism(b *testing.B, w int, limit time.Duration) extismPlugin {
	b.Helper()
	theirs, _, _ := hostFunctions()
	p, err := extism.NewCompiledPlugin(ctx, extism.Manifest{
		Wasm: []extism.Wasm{extism.WasmFile{Path: sdkPlugin(b, sdkWork[w].plugin)}}, Timeout: uint64(limit.Milliseconds()),
	}, extism.PluginConfig{EnableWasi: true}, theirs)
	if err != nil {
		b.Fatal(err)
	}
	return extismPlugin{p}
}

func openSDK(b *testing.B, w int, limit time.Duration, state host.State) (caller, func()) {
	b.Helper()
	call, end, err := openPlugin(b, host.PluginConfig{
		Name: "p", WasmModule: sdkPlugin(b, sdkWork[w].plugin), State: state, Limits: host.Limits{Timeout: limit},
	})
	if err != nil {
		b.Fatal(err)
	}
	return call, end
}

// BenchmarkSDKCall is a call of a plugin that ships with Extism's SDK, the same
// file on it and on ForgeOne's host, where policy and audit log are on:
//
//	extism, extism-timeout    Extism's SDK, without and with a timeout of 30 seconds
//	keep, keep-timeout        ForgeOne, the instance kept, as is the default
//	pristine-timeout          each call with an instance as it had started
func BenchmarkSDKCall(b *testing.B) {
	for w := range sdkWork {
		b.Run(sdkWork[w].name, func(b *testing.B) {
			var rivals []versus.Rival
			for _, limit := range []time.Duration{0, timeout} {
				p := compileExtism(b, w, limit)
				b.Cleanup(func() { _ = p.Close(ctx) })
				rivals = append(rivals, p.kept(b).sdkRival([]string{"extism", "extism-timeout"}[len(rivals)], w))
			}
			for _, r := range []struct {
				name  string
				limit time.Duration
				state host.State
			}{
				{"keep", host.NoTimeout, host.StateKeep},
				{"keep-timeout", timeout, host.StateKeep},
				{"pristine-timeout", timeout, host.StatePristine},
			} {
				call, end := openSDK(b, w, r.limit, r.state)
				b.Cleanup(end)
				rivals = append(rivals, call.sdkRival(r.name, w))
			}
			versus.Run(b, rivals...)
		})
	}
}

// BenchmarkSDKInstance is a new instance of a plugin that is compiled, its first
// call, and its end. ForgeOne's is of the engine and ABI, without a host.
func BenchmarkSDKInstance(b *testing.B) {
	for w := range sdkWork[:2] {
		b.Run(sdkWork[w].name, func(b *testing.B) {
			limited := compileExtism(b, w, timeout)
			b.Cleanup(func() { _ = limited.Close(ctx) })
			versus.Run(b,
				caller(limited.once).sdkRival("extism-timeout", w),
				newInstances(b, w).sdkRival("engine-timeout", w))
		})
	}
}

// newInstances makes a new instance for each call, on ForgeOne's engine.
func newInstances(b *testing.B, w int) caller {
	b.Helper()
	h, end := newPluginHost(b)
	b.Cleanup(end)
	gateCall, err := h.Gate().Begin(ctx, &abi.Subject{
		Plugin: "p", Identity: zta.Identity{ID: "i", TrustVector: zta.Signed},
		TrustLevel: capability.Limited, Capabilities: grants(b), Container: abi.NewContainer("c"),
	}, "bench", nil)
	if err != nil {
		b.Fatal(err)
	}
	e, err := newEngine()
	if err != nil {
		b.Fatal(err)
	}
	wasm, err := os.ReadFile(sdkPlugin(b, sdkWork[w].plugin))
	if err != nil {
		b.Fatal(err)
	}
	opts := engines.CompileOptions{MemoryLimitPages: host.DefaultMemoryLimit / engines.PageSize, Interruptible: true}
	module, err := e.Compile(ctx, wasm, opts)
	if err != nil {
		b.Fatal(err)
	}
	binding, err := forge.New(ctx, e, opts, module, forge.Config{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = errors.Join(gateCall.End(nil, nil), binding.Close(), module.Close(), e.Close()) })
	return func(function string, input []byte) ([]byte, error) {
		inst, err := binding.Instantiate(gateCall)
		if err != nil {
			return nil, err
		}
		out, err := binding.Call(gateCall, inst, function, input)
		return out, errors.Join(err, inst.Close())
	}
}

// BenchmarkSDKLoad is all of it: to read, compile and start the plugin, call it
// once and close it.
func BenchmarkSDKLoad(b *testing.B) {
	for w := range sdkWork[:2] {
		b.Run(sdkWork[w].name, func(b *testing.B) {
			versus.Run(b,
				caller(func(function string, input []byte) ([]byte, error) {
					p := compileExtism(b, w, timeout)
					out, err := p.once(function, input)
					return out, errors.Join(err, p.Close(ctx))
				}).sdkRival("extism-timeout", w),
				caller(func(function string, input []byte) ([]byte, error) {
					call, end := openSDK(b, w, timeout, host.StateKeep)
					defer end()
					return call(function, input)
				}).sdkRival("keep-timeout", w))
		})
	}
}
