//go:build linux || darwin

package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/config"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/engines/wazero"
	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/zta"
)

// newDir is a directory with a short path, which a socket in it needs.
func newDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "f1-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// kernel is a kernel in this process that serves its control API.
type kernel struct {
	client *Client
	log    *audit.Log
	dir    string
	stop   func() error // ends the server
}

// kindOf is what a program that wires a kernel supplies; this one knows what
// the tests meet.
func kindOf(err error) Kind {
	var denied *abi.DeniedError
	switch {
	case errors.As(err, &denied):
		return Blocked
	case errors.Is(err, host.ErrNotFound):
		return NotFound
	case errors.Is(err, context.DeadlineExceeded):
		return Limit
	}
	return ""
}

func newKernel(t testing.TB) *kernel {
	t.Helper()
	dir := newDir(t)
	var m asm.Module
	i32 := engines.I32
	m.Func("add", asm.Func(asm.Types(i32, i32), asm.Types(i32)), asm.Code(nil).LocalGet(0).LocalGet(1).Op(asm.I32Add))
	m.Func("spin", asm.Func(nil, nil), asm.Code(nil).Loop().Br(0).End())
	wasm := filepath.Join(dir, "tool.wasm")
	if err := os.WriteFile(wasm, m.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(audit.Options{Dir: filepath.Join(dir, "audit"), Name: "test", AllowGenerate: true})
	if err != nil {
		t.Fatal(err)
	}
	registry := &abi.SyscallRegistry{}
	err = registry.Register(abi.Registration{
		Name: "probe", MinTrust: capability.Limited,
		Handler: func(context.Context, *abi.SyscallContext, *abi.Resolution) ([]byte, error) { return nil, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	set, err := capability.New(capability.Grant{Syscalls: []string{"probe"}})
	if err != nil {
		t.Fatal(err)
	}
	h, err := host.NewPluginHost(host.WithEngine(wazero.New), host.WithLog(log), host.WithSyscalls(registry),
		host.WithPolicies(zta.Enforce, zta.Policy{Name: "probing", Syscalls: []string{"probe"}, MinTrustLevel: capability.Standard}))
	if err != nil {
		t.Fatal(err)
	}
	cfg := &config.Config{
		Kernel:  config.Kernel{Name: "test", StateDir: dir},
		Plugins: []host.PluginConfig{{Name: "tool", WasmModule: wasm, TrustLevel: capability.Limited, Capabilities: set, State: host.StatePristine}},
	}
	l, err := Listen(filepath.Join(dir, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(Options{
		Host: h, Log: log, Kind: kindOf, Version: "1.2.3", AuditDir: filepath.Join(dir, "audit"),
		Config: func() Configuration { return Configuration{Path: "f.hcl", Config: cfg} },
		Explain: func(_ context.Context, q ExplainRequest) ([]Explanation, error) {
			id, err := h.Lookup(q.Plugin)
			if err != nil {
				return nil, err
			}
			p, err := h.Plugin(id)
			if err != nil {
				return nil, err
			}
			r := &zta.Request{Syscall: q.Syscall, Args: q.Args, Plugin: p.Name, Identity: &p.Identity, Ceiling: p.TrustLevel, Now: time.Now()}
			return []Explanation{NewExplanation(r, h.Gate().GetPolicyGraph().Explain(r))}, nil
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	stop := sync.OnceValue(func() error { cancel(); return <-served })
	t.Cleanup(func() {
		if err := errors.Join(stop(), h.Close(context.Background()), log.Close()); err != nil {
			t.Error(err)
		}
	})
	c, err := Dial(context.Background(), l.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &kernel{client: c, log: log, dir: dir, stop: stop}
}

// start loads and starts the plugin.
func (k *kernel) start(t testing.TB) {
	t.Helper()
	_, err := k.client.Load(t.Context(), "tool")
	if err == nil {
		_, err = k.client.Start(t.Context(), "tool")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// wantKind checks the kind of an error that crossed the socket.
func wantKind(t *testing.T, err error, kind Kind, text string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Kind != kind || !strings.Contains(e.Message, text) {
		t.Errorf("got %#v, want an error of kind %s with %q", err, kind, text)
	}
}

func TestVerbsAndErrorsCross(t *testing.T) {
	k := newKernel(t)
	ctx, c := t.Context(), k.client

	_, err := c.Plugin(ctx, "tool")
	wantKind(t, err, NotFound, "not loaded")
	_, err = c.Load(ctx, "other")
	wantKind(t, err, NotFound, "f.hcl")
	k.start(t)
	p, err := c.Plugin(ctx, "tool")
	if err != nil || p.Status.Phase != "active" || p.TrustLevel != "limited" || p.Identity.TrustVector != "unverified" || p.Capabilities.Syscalls[0] != "probe" {
		t.Errorf("plugin: %+v, %v", p, err)
	}
	if byID, err := c.Plugin(ctx, p.ID); err != nil || byID.Name != "tool" {
		t.Errorf("by id: %+v, %v", byID, err)
	}
	if out, err := c.Call(ctx, "tool", "add", []byte("1 2")); err != nil || string(out) != "3" {
		t.Errorf("call: %q, %v", out, err)
	}
	_, err = c.Call(ctx, "tool", "", nil)
	wantKind(t, err, Usage, "no function")
	if _, err = c.Pause(ctx, "tool"); err != nil {
		t.Error(err)
	}
	_, err = c.Call(ctx, "tool", "add", []byte("1 2"))
	wantKind(t, err, Blocked, "paused")
	_, err = c.Pause(ctx, "tool")
	wantKind(t, err, Failed, "cannot pause") // kindOf above knows no more
	if _, err = c.Resume(ctx, "tool"); err != nil {
		t.Error(err)
	}
	before, err := c.Plugin(ctx, "tool")
	if err != nil {
		t.Fatal(err)
	}
	if p, err = c.Reload(ctx, "tool"); err != nil || p.Container == before.Container {
		t.Errorf("reload: %+v, %v", p, err)
	}
	if p, err = c.Stop(ctx, "tool"); err != nil || p.Status.Phase != "stopped" {
		t.Errorf("stop: %+v, %v", p, err)
	}
	if p, err = c.Unload(ctx, "tool"); err != nil || p.Status.Phase != "unloaded" {
		t.Errorf("unload: %+v, %v", p, err)
	}
	if ps, err := c.Plugins(ctx); err != nil || ps == nil || len(ps) != 0 {
		t.Errorf("plugins: %v, %v", ps, err)
	}
	if cases, err := c.Cases(ctx); err != nil || len(cases) != 0 {
		t.Errorf("cases: %v, %v", cases, err)
	}
	_, err = c.Release(ctx, "Q-1", "")
	wantKind(t, err, Usage, "reason")

	st, err := c.Status(ctx)
	if err != nil || st.Version != "1.2.3" || st.Name != "test" || st.Policy.Policies[0] != "probing" || st.Audit.Records == 0 || st.Engines[0].Name != "wazero" {
		t.Errorf("status: %+v, %v", st, err)
	}
}

func TestChangesAreAttributed(t *testing.T) {
	k := newKernel(t)
	k.start(t)
	var verbs []string
	for r, err := range audit.Records(filepath.Join(k.dir, "audit"), audit.Filter{Kind: audit.KindKernel}) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Details["event"] == "control" {
			verbs = append(verbs, r.Details["verb"]+" "+r.Plugin+" "+r.Details["peer_uid"])
		}
	}
	uid := fmt.Sprint(os.Getuid())
	if got, want := strings.Join(verbs, ", "), "load tool "+uid+", start tool "+uid; got != want {
		t.Errorf("on record: %s; want %s", got, want)
	}
}

func TestExplain(t *testing.T) {
	k := newKernel(t)
	k.start(t)
	q := ExplainRequest{Plugin: "tool", Syscall: "probe", Args: []string{"a"}}
	es, err := k.client.Explain(t.Context(), q)
	if err != nil || len(es) != 1 || es[0].Outcome != "blocked" || es[0].Rule != "probing" || es[0].Level != "limited" ||
		len(es[0].Rules) != 1 || !es[0].Rules[0].InScope || es[0].Rules[0].Holds || es[0].Args[0] != "a" {
		t.Errorf("explain: %+v, %v", es, err)
	}
	_, err = k.client.Explain(t.Context(), ExplainRequest{Plugin: "nosuch", Syscall: "probe"})
	wantKind(t, err, NotFound, "tool")
}

func TestCallEnds(t *testing.T) {
	k := newKernel(t)
	k.start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := k.client.Call(ctx, "tool", "spin", nil)
	wantKind(t, err, Limit, "timeout") // the kernel's own answer

	ctx, cancel = context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := k.client.Call(ctx, "tool", "spin", nil)
		done <- err
	}()
	phase := func() string {
		st, err := k.client.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return st.Phase
	}
	for phase() != "running" {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled call: %v", err)
	}
	for phase() != "ready" { // the guest has ended too
		time.Sleep(time.Millisecond)
	}
}

func TestCallsAtTheSameTime(t *testing.T) {
	k := newKernel(t)
	k.start(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 20 {
				out, err := k.client.Call(t.Context(), "tool", "add", fmt.Appendf(nil, "%d %d", i, j))
				if err != nil || string(out) != fmt.Sprint(i+j) {
					t.Errorf("%d+%d = %q, %v", i, j, out, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestServerStopsAndRemovesItsSocket(t *testing.T) {
	k := newKernel(t)
	if err := k.stop(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(k.dir, "control.sock")
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	if _, err := Dial(t.Context(), path); !errors.Is(err, ErrNotRunning) {
		t.Errorf("dial: %v, want ErrNotRunning", err)
	}
	if _, err := k.client.Status(t.Context()); err == nil || strings.Contains(err.Error(), "http://") {
		t.Errorf("status of a stopped kernel: %v", err)
	}
}

// raw sends a request as no client of ours would.
func (k *kernel) raw(t *testing.T, method, path string, body io.Reader) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://x"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	res, err := k.client.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func TestRequestsAreChecked(t *testing.T) {
	k := newKernel(t)
	k.start(t)
	for _, c := range []struct {
		method, path string
		body         io.Reader
		status       int
		text         string
	}{
		{"GET", "/v1/nosuch", nil, 404, "not_found"},
		{"DELETE", "/v1/plugins/tool", nil, 404, "not_found"},
		{"POST", "/v1/explain", strings.NewReader("{"), 400, "usage"},
		{"POST", "/v1/explain", bytes.NewReader(make([]byte, maxRequest+1)), 413, "limit"},
		{"POST", "/v1/plugins/tool/call?function=add&timeout=soon", strings.NewReader("1 2"), 400, "usage"},
		{"POST", "/v1/plugins/tool/call?function=add&timeout=-1s", strings.NewReader("1 2"), 400, "usage"},
		{"POST", "/v1/plugins/%2e%2e/call?function=add", strings.NewReader("1 2"), 404, "not_found"},
	} {
		status, body := k.raw(t, c.method, c.path, c.body)
		if status != c.status || !strings.Contains(body, c.text) {
			t.Errorf("%s %s: %d %s; want %d with %q", c.method, c.path, status, body, c.status, c.text)
		}
	}
	// A body that is too large and says so in time is refused, not read.
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://x/v1/plugins/tool/call?function=add", io.LimitReader(zeroes{}, MaxInput+1))
	if err != nil {
		t.Fatal(err)
	}
	if res, err := k.client.http.Do(req); err == nil {
		if res.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("a call with %d bytes: %s", MaxInput+1, res.Status)
		}
		_ = res.Body.Close()
	} else if !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "broken pipe") && !strings.Contains(err.Error(), "reset") {
		t.Error(err)
	}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestOnlyTheOwnerAndRoot(t *testing.T) {
	for _, c := range []struct {
		uid, own int
		ok       bool
	}{{1000, 1000, true}, {0, 1000, true}, {0, 0, true}, {1001, 1000, false}, {1000, 0, false}, {-1, 1000, false}} {
		if err := admit(c.uid, c.own); (err == nil) != c.ok {
			t.Errorf("user %d with a kernel of user %d: %v", c.uid, c.own, err)
		}
	}
	// A peer that cannot be identified may do nothing, whatever it asks.
	a, b := net.Pipe()
	defer func() { _, _ = a.Close(), b.Close() }()
	s := NewServer(Options{Kind: kindOf})
	for name, ctx := range map[string]context.Context{"no peer": context.Background(), "not a unix socket": withPeer(context.Background(), a)} {
		w := &recorder{header: http.Header{}}
		r, err := http.NewRequestWithContext(ctx, "GET", "http://x/v1/status", nil)
		if err != nil {
			t.Fatal(err)
		}
		s.handler().ServeHTTP(w, r)
		if w.status != http.StatusForbidden || !strings.Contains(w.body.String(), string(Forbidden)) {
			t.Errorf("%s: %d %s", name, w.status, w.body.String())
		}
	}
}

type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }

func TestPeerOfAUnixSocketIsThisUser(t *testing.T) {
	path := filepath.Join(newDir(t), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if p := identify(s); p.err != nil || p.uid != os.Geteuid() {
		t.Errorf("peer: %+v, want user %d", p, os.Geteuid())
	}
}

func TestListen(t *testing.T) {
	dir := newDir(t)
	path := filepath.Join(dir, "control.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v; want mode 0600", fi, err)
	}
	if _, err := Listen(path); !errors.Is(err, ErrInUse) {
		t.Errorf("second listener: %v, want ErrInUse", err)
	}
	// As a killed kernel leaves it: the socket is there, nobody listens.
	if err := l.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Fatal(err)
	}
	l, err = Listen(path)
	if err != nil {
		t.Fatalf("a dead kernel's socket is in the way: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}

	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(filepath.Join(filepath.Dir(path), "none", "c.sock")); err == nil || !strings.Contains(err.Error(), "does not exist: make it") {
		t.Errorf("a socket in a directory that is not there: %v", err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "something else") {
		t.Errorf("listen on a file: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("the file is now %q, %v", b, err)
	}
	long := filepath.Join(dir, strings.Repeat("x", maxSocketPath))
	if _, err := Listen(long); err == nil || !strings.Contains(err.Error(), "state_dir") {
		t.Errorf("listen on a long path: %v", err)
	}
}

// uninterruptible is an engine that cannot interrupt a guest.
type uninterruptible struct{ engines.WasmEngine }

func (e uninterruptible) Info() engines.Info {
	info := e.WasmEngine.Info()
	info.Interrupt = false
	return info
}

func TestATimeoutThatCannotBeHeldIsRefused(t *testing.T) {
	t.Setenv("TMPDIR", newDir(t)) // the host's private log outlives it
	for _, interrupt := range []bool{true, false} {
		h, err := host.NewPluginHost(host.WithEngine(func() (engines.WasmEngine, error) {
			e, err := wazero.New()
			if err != nil || interrupt {
				return e, err
			}
			return uninterruptible{e}, nil
		}))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = h.Close(context.Background()) }()
		wasm := filepath.Join(newDir(t), "m.wasm")
		if err := os.WriteFile(wasm, new(asm.Module).Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		id, err := h.LoadPlugin(t.Context(), host.PluginConfig{Name: "tool", WasmModule: wasm, TrustLevel: capability.Limited})
		if err != nil {
			t.Fatal(err)
		}
		if err := CanTimeOut(h, id); (err == nil) != interrupt {
			t.Errorf("engine that interrupts %t: %v", interrupt, err)
		}
	}
}
