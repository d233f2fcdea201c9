package benchmarks_test

import (
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	extism "github.com/extism/go-sdk"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
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
	"host":             {refused: "extism:host/user.mult"},
	"host_memory":      {refused: "host.to_upper"},
	"host_multiple":    {refused: "extism:host/user.hostGreenMessage"},
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
			if p.refused != "" {
				_, end, err := openPlugin(t, name, p.config, p.mount, mounts[0])
				defer end()
				if err == nil || !strings.Contains(err.Error(), p.refused) {
					t.Errorf("got %v, want a refusal that names %s", err, p.refused)
				}
				return
			}
			want := onExtism(t, name, mounts[0])
			call, end, err := openPlugin(t, name, p.config, p.mount, mounts[1])
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

// onExtism does the steps on Extism's own SDK.
func onExtism(t *testing.T, name, dir string) []result {
	t.Helper()
	p := sdkPlugins[name]
	manifest := extism.Manifest{Wasm: []extism.Wasm{extism.WasmFile{Path: sdkPlugin(t, name)}}, Config: p.config}
	if p.mount != "" {
		manifest.AllowedPaths = map[string]string{dir: p.mount}
	}
	inst, err := extism.NewPlugin(ctx, manifest, extism.PluginConfig{EnableWasi: true}, nil)
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

// openPlugin loads and starts one of the SDK's plugins in a host of its own.
func openPlugin(t testing.TB, name string, config map[string]string, mount, dir string) (caller, func(), error) {
	t.Helper()
	reg := &abi.SyscallRegistry{}
	if err := reg.Register(syscalls.Registrations(syscalls.Options{Stdio: func(_, _ string, p []byte) { _, _ = io.Discard.Write(p) }})...); err != nil {
		t.Fatal(err)
	}
	h, err := host.NewPluginHost(host.WithEngine(newEngine), host.WithSyscalls(reg),
		host.WithPolicies(zta.Enforce, zta.Policy{Name: "all", Syscalls: []string{"*"}}))
	if err != nil {
		t.Fatal(err)
	}
	end := func() {
		_ = h.Close(ctx)
		_ = os.RemoveAll(h.AuditDir())
	}
	grant := capability.Grant{Syscalls: []string{"time_*", "random_get", "stdio_*", "log_write", "file_*"}}
	if mount != "" {
		grant.Resources = []string{"file://" + mount, "file://" + mount + "/**"}
	}
	set, err := capability.New(grant)
	if err != nil {
		t.Fatal(err)
	}
	pc := host.PluginConfig{
		Name: name, WasmModule: sdkPlugin(t, name), TrustLevel: capability.Standard, Capabilities: set, ABI: host.ABIExtism, Config: config,
	}
	if mount != "" {
		pc.Mounts = []host.Mount{{Guest: mount, Host: dir}}
	}
	id, err := h.LoadPlugin(ctx, pc)
	if err == nil {
		err = h.StartPlugin(ctx, id)
	}
	return func(function string, input []byte) ([]byte, error) { return h.Call(ctx, id, function, input) }, end, err
}
