package host_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/meter"
	"forgeone.dev/forgeone/engines/wazero"
	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/state"
	"forgeone.dev/forgeone/syscalls"
	"forgeone.dev/forgeone/zta"
)

// artifacts are the example plugins, built once with the Go toolchain.
var artifacts struct{ summariseWasm, summarise, rogueWasm, rogue string }

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "fo") // short: paths of unix sockets are
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		if err := os.Setenv("TMPDIR", dir); err != nil { // private logs go with it
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		for _, b := range []struct {
			out  *string
			name string
			pkg  string
			wasm bool
		}{
			{&artifacts.summariseWasm, "summarise.wasm", "summarise-wasm", true},
			{&artifacts.rogueWasm, "rogue.wasm", "rogue-wasm", true},
			{&artifacts.summarise, "summarise", "summarise-native", false},
			{&artifacts.rogue, "rogue", "rogue-native", false},
		} {
			*b.out = filepath.Join(dir, b.name)
			args := []string{"build", "-o", *b.out}
			env := append(os.Environ(), "CGO_ENABLED=0")
			if b.wasm {
				args = append(args, "-buildmode=c-shared")
				env = append(env, "GOOS=wasip1", "GOARCH=wasm")
			}
			cmd := exec.Command("go", append(args, "../plugins/examples/"+b.pkg)...)
			cmd.Env = env
			if out, err := cmd.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "build %s: %v\n%s", b.pkg, err, out)
				return 1
			}
		}
		return m.Run()
	}())
}

// engine is one engine for all tests, that holds the compiled guests: compiling
// a Go guest takes a second, and half a minute under the race detector.
var engine = sync.OnceValues(func() (engines.WasmEngine, error) {
	bare, err := wazero.New()
	if err != nil {
		return nil, err
	}
	e := meter.Wrap(bare, meter.Limits{})
	opts := engines.CompileOptions{MemoryLimitPages: host.DefaultMemoryLimit / engines.PageSize, Interruptible: true, Snapshots: true}
	for _, path := range []string{artifacts.summariseWasm, artifacts.rogueWasm} {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if _, err := e.Compile(context.Background(), b, opts); err != nil {
			return nil, err
		}
	}
	return keptEngine{e}, nil
})

func sharedEngine() (engines.WasmEngine, error) { return engine() }

// keptEngine outlives the hosts that it is given to.
type keptEngine struct{ engines.WasmEngine }

func (keptEngine) Close() error { return nil }

// kernel is a plugin host with everything real: engine, processes, syscalls,
// state, log.
type kernel struct {
	*host.PluginHost
	t        *testing.T
	dir      string
	log      *audit.Log
	db       *state.DB
	policies []zta.Policy
	engine   host.NewEngine
}

var inboxPolicies = []zta.Policy{
	{Name: "inbox", Syscalls: []string{"file_open", "file_read"}, OnViolation: zta.Quarantine,
		Args: map[int]zta.ArgConstraint{0: {Match: "^/data/", Deny: `\.\.`}}},
	{Name: "own-affairs", Syscalls: []string{"kv_*", "log_write", "stdio_write", "time_*", "random_get"}},
}

func newKernel(t *testing.T, opts ...host.Option) *kernel {
	t.Helper()
	return newKernelOn(t, sharedEngine, opts...)
}

// newKernelOn is newKernel on another engine.
func newKernelOn(t *testing.T, engine host.NewEngine, opts ...host.Option) *kernel {
	t.Helper()
	k := &kernel{t: t, dir: t.TempDir(), policies: inboxPolicies, engine: engine}
	if err := os.Mkdir(filepath.Join(k.dir, "inbox"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(k.dir, "inbox", "report.txt"), []byte("The forge is hot. The iron is ready. Strike now."), 0o600); err != nil {
		t.Fatal(err)
	}
	k.up(opts...)
	t.Cleanup(k.down)
	return k
}

func (k *kernel) up(opts ...host.Option) {
	k.t.Helper()
	var err error
	if k.db, err = state.Open(filepath.Join(k.dir, "state")); err != nil {
		k.t.Fatal(err)
	}
	if k.log, err = audit.Open(audit.Options{Dir: filepath.Join(k.dir, "audit"), Name: "forgeone/test", AllowGenerate: true}); err != nil {
		k.t.Fatal(err)
	}
	reg := &abi.SyscallRegistry{}
	if err := reg.Register(syscalls.Registrations(syscalls.Options{State: k.db})...); err != nil {
		k.t.Fatal(err)
	}
	opts = append([]host.Option{host.WithEngine(k.engine), host.WithSyscalls(reg), host.WithState(k.db), host.WithLog(k.log),
		host.WithPolicies(zta.Enforce, k.policies...)}, opts...)
	if k.PluginHost, err = host.NewPluginHost(opts...); err != nil {
		k.t.Fatal(err)
	}
}

// down ends the kernel, and verifies what it left.
func (k *kernel) down() {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := k.Close(ctx); err != nil {
		k.t.Errorf("close: %v", err)
	}
	if err := k.log.Close(); err != nil {
		k.t.Errorf("close log: %v", err)
	}
	if err := k.db.Close(); err != nil {
		k.t.Errorf("close state: %v", err)
	}
	rep, err := audit.Verify(ctx, audit.VerifyOptions{Dir: filepath.Join(k.dir, "audit")})
	if err != nil || rep.FirstBad != nil {
		k.t.Errorf("the log does not verify: %+v, %v", rep, err)
	}
}

func sum(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// config is a plugin that may read the inbox.
func (k *kernel) config(name, artifact string) host.PluginConfig {
	k.t.Helper()
	set, err := capability.New(capability.Grant{
		Syscalls:  []string{"read_file", "kv_*", "log_write", "stdio_write", "time_*", "random_get"},
		Resources: []string{"file:///data/**"},
	})
	if err != nil {
		k.t.Fatal(err)
	}
	cfg := host.PluginConfig{Name: name, Version: "1.0.0", TrustLevel: capability.Standard, Capabilities: set,
		Mounts: []host.Mount{{Guest: "/data", Host: filepath.Join(k.dir, "inbox"), ReadOnly: true}}}
	if filepath.Ext(artifact) == ".wasm" {
		cfg.WasmModule = artifact
	} else {
		if runtime.GOOS == "windows" {
			k.t.Skip("native plugins are not supported on windows")
		}
		cfg.NativeLibrary, cfg.SHA256, cfg.Sandbox = artifact, sum(k.t, artifact), host.SandboxNone
	}
	return cfg
}

// both runs a test for a plugin of each kind.
func both(t *testing.T, wasm, native string, f func(t *testing.T, artifact string)) {
	t.Run("wasm", func(t *testing.T) { f(t, wasm) })
	t.Run("native", func(t *testing.T) { f(t, native) })
}
