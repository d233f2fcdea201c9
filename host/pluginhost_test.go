package host_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/zta"
)

var ctx = context.Background()

func (k *kernel) load(cfg host.PluginConfig) uuid.UUID {
	k.t.Helper()
	id, err := k.LoadPlugin(ctx, cfg)
	if err != nil {
		k.t.Fatal(err)
	}
	return id
}

func (k *kernel) start(cfg host.PluginConfig) uuid.UUID {
	k.t.Helper()
	id := k.load(cfg)
	if err := k.StartPlugin(ctx, id); err != nil {
		k.t.Fatal(err)
	}
	return id
}

func (k *kernel) status(id uuid.UUID) host.PluginStatus {
	k.t.Helper()
	p, err := k.Plugin(id)
	if err != nil {
		k.t.Fatal(err)
	}
	return p.Status
}

// TestBothKindsDoTheSame: the same code as WASM and native gives the same
// answer by the same gate.
func TestBothKindsDoTheSame(t *testing.T) {
	k := newKernel(t)
	answers := map[string]map[string]any{}
	for name, artifact := range map[string]string{"wasm": artifacts.summariseWasm, "native": artifacts.summarise} {
		id := k.start(k.config(name, artifact))
		var got map[string]any
		for range 3 { // the count is kept outside the instance
			out, err := k.Call(ctx, id, "summarise", []byte("/data/report.txt"))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if err := json.Unmarshal(out, &got); err != nil {
				t.Fatalf("%s: %q: %v", name, out, err)
			}
		}
		answers[name] = got
	}
	w, n := answers["wasm"], answers["native"]
	if len(w) == 0 || len(w) != len(n) {
		t.Fatalf("answers %v and %v", w, n)
	}
	for key := range w {
		a, _ := json.Marshal(w[key])
		b, _ := json.Marshal(n[key])
		if string(a) != string(b) {
			t.Errorf("%s: wasm says %s, native %s", key, a, b)
		}
	}
}

func TestWriteIsBlocked(t *testing.T) {
	both(t, artifacts.rogueWasm, artifacts.rogue, func(t *testing.T, artifact string) {
		k := newKernel(t)
		id := k.start(k.config("rogue", artifact))
		_, err := k.Call(ctx, id, "write", nil)
		var fe *host.FunctionError
		if !errors.As(err, &fe) || !strings.Contains(fe.Message, "blocked") {
			t.Fatalf("got %v, want a function that reports the blocked write", err)
		}
		b, err := os.ReadFile(filepath.Join(k.dir, "inbox", "report.txt"))
		if err != nil || !strings.HasPrefix(string(b), "The forge") {
			t.Errorf("the document is now %q, %v", b, err)
		}
		if st := k.status(id); st.Phase != host.PluginActive {
			t.Errorf("status %s", st)
		}
	})
}

// TestQuarantine: a violation stops the plugin, outlives a restart and another
// name, and is lifted by a release.
func TestQuarantine(t *testing.T) {
	both(t, artifacts.rogueWasm, artifacts.rogue, func(t *testing.T, artifact string) {
		k := newKernel(t)
		id := k.start(k.config("rogue", artifact))
		p, _ := k.Plugin(id)
		_, err := k.Call(ctx, id, "escape", nil)
		var denied *abi.DeniedError
		if !errors.As(err, &denied) || denied.Status != abi.Quarantined {
			t.Fatalf("got %v, want Quarantined", err)
		}
		st := k.status(id)
		if st.Phase != host.PluginQuarantined || st.Case == "" {
			t.Fatalf("status %s", st)
		}
		if p.PID != 0 && alive(p.PID) {
			t.Errorf("process %d is still there", p.PID)
		}
		if _, err := k.Call(ctx, id, "write", nil); !errors.As(err, &denied) || denied.Status != abi.Quarantined || !strings.Contains(err.Error(), st.Case) {
			t.Errorf("a later call: %v, want Quarantined with the case", err)
		}
		if err := k.StartPlugin(ctx, id); !errors.Is(err, host.ErrQuarantined) {
			t.Errorf("start: %v", err)
		}

		k.down()
		k.up()
		id = k.load(k.config("another-name", artifact))
		if st := k.status(id); st.Phase != host.PluginQuarantined {
			t.Fatalf("after a restart and under another name: %s", st)
		}
		if err := k.StartPlugin(ctx, id); !errors.Is(err, host.ErrQuarantined) {
			t.Errorf("start: %v", err)
		}
		if _, err := k.ReleaseCase(ctx, st.Case, "tester", ""); err == nil {
			t.Error("released without a reason")
		}
		if _, err := k.ReleaseCase(ctx, st.Case, "tester", "looked into it"); err != nil {
			t.Fatal(err)
		}
		if err := k.StartPlugin(ctx, id); err != nil {
			t.Fatalf("start after release: %v", err)
		}
		if p, _ := k.Plugin(id); p.Integrity > zta.ReleasedIntegrity+1 {
			t.Errorf("integrity %v after release", p.Integrity)
		}
	})
}

func TestLifecycle(t *testing.T) {
	both(t, artifacts.summariseWasm, artifacts.summarise, func(t *testing.T, artifact string) {
		k := newKernel(t)
		id := k.load(k.config("s", artifact))
		refused := func(verb string, err error) {
			t.Helper()
			var te *host.TransitionError
			if !errors.As(err, &te) || te.Verb != verb || strings.Count(err.Error(), verb+" plugin") > 1 {
				t.Errorf("%s while %s: %v, want it refused by name", verb, k.status(id), err)
			}
		}
		must := func(err error, want host.PluginPhase) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			if st := k.status(id); st.Phase != want {
				t.Fatalf("status %s, want %s", st, want)
			}
		}
		call := func() error {
			_, err := k.Call(ctx, id, "summarise", []byte("/data/report.txt"))
			return err
		}
		refused("pause", k.PausePlugin(ctx, id))
		refused("resume", k.ResumePlugin(ctx, id))
		refused("stop", k.StopPlugin(ctx, id))
		refused("call", call())
		must(k.StartPlugin(ctx, id), host.PluginActive)
		refused("start", k.StartPlugin(ctx, id))
		refused("resume", k.ResumePlugin(ctx, id))
		refused("unload", k.UnloadPlugin(ctx, id))
		must(call(), host.PluginActive)
		must(k.PausePlugin(ctx, id), host.PluginPaused)
		var denied *abi.DeniedError
		if err := call(); !errors.As(err, &denied) || denied.Status != abi.Blocked {
			t.Errorf("call while paused: %v", err)
		}
		must(k.ResumePlugin(ctx, id), host.PluginActive)
		must(call(), host.PluginActive)
		must(k.PausePlugin(ctx, id), host.PluginPaused)
		must(k.StopPlugin(ctx, id), host.PluginStopped)
		must(k.StartPlugin(ctx, id), host.PluginActive)
		must(k.StopPlugin(ctx, id), host.PluginStopped)
		if err := k.UnloadPlugin(ctx, id); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Plugin(id); !errors.Is(err, host.ErrNotFound) {
			t.Errorf("after unload: %v", err)
		}
	})
}

// TestReload: calls in flight are served, none fails, and a bad artifact
// leaves the old one at work.
func TestReload(t *testing.T) {
	both(t, artifacts.summariseWasm, artifacts.summarise, func(t *testing.T, artifact string) {
		k := newKernel(t)
		cfg := k.config("s", artifact)
		id := k.start(cfg)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		var served int
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := k.Call(ctx, id, "summarise", []byte("/data/report.txt")); err != nil {
					t.Errorf("call during reload: %v", err)
					return
				}
				served++
			}
		}()
		for range 3 {
			if err := k.ReloadPlugin(ctx, id, &cfg); err != nil {
				t.Error(err)
			}
		}
		before, _ := k.Plugin(id)
		bad := cfg
		bad.SHA256 = strings.Repeat("0", 64)
		if err := k.ReloadPlugin(ctx, id, &bad); !errors.Is(err, host.ErrChecksum) {
			t.Errorf("reload of something else: %v", err)
		}
		after, _ := k.Plugin(id)
		if after.Container != before.Container || after.Status.Phase != host.PluginActive {
			t.Errorf("a failed reload changed the plugin: %+v, was %+v", after, before)
		}
		time.Sleep(10 * time.Millisecond)
		close(stop)
		wg.Wait()
		if served == 0 {
			t.Error("no call was served during the reloads")
		}
	})
}

func TestKilledPluginFails(t *testing.T) {
	k := newKernel(t)
	id := k.start(k.config("rogue", artifacts.rogue))
	other := k.start(k.config("summarise", artifacts.summariseWasm))
	if _, err := k.Call(ctx, id, "crash", nil); err == nil {
		t.Fatal("the call of a process that died ended well")
	}
	for range 200 {
		if k.status(id).Phase == host.PluginFailed {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if st := k.status(id); st.Phase != host.PluginFailed || st.Reason == "" {
		t.Fatalf("status %s", st)
	}
	if _, err := k.Call(ctx, other, "summarise", []byte("/data/report.txt")); err != nil {
		t.Errorf("the other plugin: %v", err)
	}
	if err := k.StartPlugin(ctx, id); err != nil {
		t.Errorf("start after a crash: %v", err)
	}
}

// TestStartIsNoCall: a native plugin whose calls have less time than a process
// takes to come up can be started.
func TestStartIsNoCall(t *testing.T) {
	k := newKernel(t)
	cfg := k.config("rogue", artifacts.rogue)
	cfg.Limits.Timeout = time.Microsecond
	id := k.load(cfg)
	var le *host.LimitError
	if err := k.StartPlugin(ctx, id); err != nil && (!errors.As(err, &le) || strings.Contains(err.Error(), "start rogue:")) {
		t.Errorf("got %v", err)
	}
}

func TestTimeout(t *testing.T) {
	both(t, artifacts.rogueWasm, artifacts.rogue, func(t *testing.T, artifact string) {
		k := newKernel(t)
		cfg := k.config("rogue", artifact)
		cfg.Limits.Timeout = 500 * time.Millisecond
		id := k.start(cfg)
		_, err := k.Call(ctx, id, "loop", nil)
		var le *host.LimitError
		if !errors.As(err, &le) || le.Limit != "timeout" {
			t.Fatalf("got %v", err)
		}
	})
}

// TestFuel: a call that spends its fuel ends with the limit's name; one that
// does not is served.
func TestFuel(t *testing.T) {
	k := newKernel(t)
	cfg := k.config("rogue", artifacts.rogueWasm)
	cfg.Limits.Fuel = 50_000_000
	id := k.start(cfg)
	_, err := k.Call(ctx, id, "loop", nil)
	var le *host.LimitError
	if !errors.As(err, &le) || le.Limit != "fuel" {
		t.Fatalf("got %v", err)
	}
	if _, err := k.Call(ctx, id, "write", nil); errors.As(err, &le) {
		t.Errorf("a short call after it: %v", err)
	}
}

// TestBadPlugins: each is refused with an error that says what and where, and
// leaves nothing behind.
func TestBadPlugins(t *testing.T) {
	k := newKernel(t)
	file := func(name, content string) string {
		p := filepath.Join(k.dir, name)
		if err := os.WriteFile(p, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
		return p
	}
	wasm, err := os.ReadFile(artifacts.summariseWasm)
	if err != nil {
		t.Fatal(err)
	}
	with := func(name, artifact string, change func(*host.PluginConfig)) host.PluginConfig {
		cfg := k.config(name, artifact)
		if change != nil {
			change(&cfg)
		}
		return cfg
	}
	cases := map[string]struct {
		cfg   host.PluginConfig
		start bool // whether it is refused when it is started
		want  string
	}{
		"missing file":     {with("p", "no.wasm", nil), false, "no.wasm"},
		"truncated":        {with("p", file("cut.wasm", string(wasm[:len(wasm)/2])), nil), false, "compile"},
		"not wasm":         {with("p", file("text.wasm", "hello"), nil), false, "compile"},
		"unknown import":   {with("p", file("imports.wasm", "\x00asm\x01\x00\x00\x00\x01\x04\x01\x60\x00\x00\x02\x09\x01\x03env\x01f\x00\x00"), nil), true, "env.f"},
		"unknown syscall":  {with("p", artifacts.summariseWasm, grant("file_opne")), false, "file_opne"},
		"above its level":  {with("p", artifacts.summariseWasm, func(c *host.PluginConfig) { grant("file_write")(c); c.TrustLevel = capability.Limited }), false, "file_write"},
		"wrong checksum":   {with("p", artifacts.summarise, func(c *host.PluginConfig) { c.SHA256 = strings.Repeat("0", 64) }), false, "sha256"},
		"no checksum":      {with("p", artifacts.summarise, func(c *host.PluginConfig) { c.SHA256 = "" }), false, "sha256"},
		"no sandbox":       {with("p", artifacts.summarise, func(c *host.PluginConfig) { c.Sandbox = "" }), false, "sandbox"},
		"unverified":       {with("p", artifacts.summariseWasm, func(c *host.PluginConfig) { c.Identity = zta.IdentitySpec{ID: "x", Vector: zta.Signed} }), false, "x"},
		"native fuel":      {with("p", artifacts.summarise, func(c *host.PluginConfig) { c.Limits.Fuel = 1 }), false, "fuel"},
		"not a plugin":     {with("p", file("true", "#!/bin/sh\nexit 0\n"), nil), true, "not a plugin"},
		"dies at start":    {with("p", file("dies", "#!/bin/sh\necho giving up >&2\nexit 7\n"), nil), true, "giving up"},
		"talks nonsense":   {with("p", file("talks", "#!/bin/sh\necho hello\nsleep 60\n"), nil), true, "not a plugin"},
		"lies about where": {with("p", file("lies", "#!/bin/sh\necho '1|1|tcp|127.0.0.1:1|grpc|'\nsleep 60\n"), nil), true, "unix socket"},
		"no mount":         {with("p", artifacts.summariseWasm, func(c *host.PluginConfig) { c.Mounts[0].Host = "/no/such/dir" }), true, "/data"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			id, err := k.LoadPlugin(ctx, tc.cfg)
			if tc.start {
				if err != nil {
					t.Fatal(err)
				}
				err = k.StartPlugin(ctx, id)
				if st := k.status(id); st.Phase != host.PluginFailed {
					t.Errorf("status %s", st)
				}
				defer func() {
					if err := k.UnloadPlugin(ctx, id); err != nil {
						t.Error(err)
					}
				}()
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want it to speak of %q", err, tc.want)
			}
			t.Log(err)
		})
	}
	if n := len(k.Plugins()); n != 0 {
		t.Errorf("%d plugins left", n)
	}
	id := k.start(k.config("good", artifacts.summariseWasm))
	if _, err := k.Call(ctx, id, "summarise", []byte("/data/report.txt")); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

func grant(names ...string) func(*host.PluginConfig) {
	return func(c *host.PluginConfig) {
		s, err := capability.New(capability.Grant{Syscalls: names})
		if err != nil {
			panic(err)
		}
		c.Capabilities = s
	}
}

func TestHangInHandshake(t *testing.T) {
	k := newKernel(t)
	p := filepath.Join(k.dir, "hangs")
	if err := os.WriteFile(p, []byte("#!/bin/sh\nexec sleep 600\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	id := k.load(k.config("p", p))
	if err := k.StartPlugin(soon(t), id); err == nil || k.status(id).Phase != host.PluginFailed {
		t.Fatalf("got %v, status %s", err, k.status(id))
	}
}

func TestNothingWithoutAnEngine(t *testing.T) {
	h, err := host.NewPluginHost()
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(h.AuditDir())
	defer h.Close(ctx)
	_, err = h.LoadPlugin(ctx, host.PluginConfig{Name: "p", WasmModule: artifacts.summariseWasm, TrustLevel: capability.Standard})
	if err == nil || !strings.Contains(err.Error(), "WithEngine") {
		t.Errorf("got %v", err)
	}
}
