package abi

import (
	"context"
	"errors"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/zta"
)

// recorder is a log in memory that can be made to fail, for looking at what the
// gate records and at what it does when it cannot.
type recorder struct {
	mu      sync.Mutex
	records []audit.Record
	synced  []uint64
	fail    func(*audit.Record) error
	failSyn error
}

func (l *recorder) Append(r *audit.Record) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		if err := l.fail(r); err != nil {
			return 0, err
		}
	}
	cp := *r
	cp.Seq = uint64(len(l.records))
	cp.Args, cp.Resources = slices.Clone(r.Args), slices.Clone(r.Resources)
	l.records = append(l.records, cp)
	return cp.Seq, nil
}

func (l *recorder) Sync(_ context.Context, seq uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.synced = append(l.synced, seq)
	return l.failSyn
}

func (l *recorder) syscalls() []audit.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []audit.Record
	for _, r := range l.records {
		if r.Kind == audit.KindSyscall {
			out = append(out, r)
		}
	}
	return out
}

// world is a gate with a few syscalls whose effects can be counted.
type world struct {
	gate     *Gate
	log      *recorder
	subject  *Subject
	effects  atomic.Int64 // handlers that ran
	resolves atomic.Int64
	closed   atomic.Int64 // resolved objects that were closed
	isolated []zta.Decision
	now      time.Time
}

// fataler is a *testing.T, *testing.B or *rapid.T.
type fataler interface {
	Helper()
	Fatal(args ...any)
}

type closer func()

func (c closer) Close() error { c(); return nil }

func newWorld(t fataler, mode zta.Mode, grant capability.Grant, policies ...zta.Policy) *world {
	t.Helper()
	w := &world{log: &recorder{}, now: time.Unix(1_700_000_000, 0)}
	reg := &SyscallRegistry{}
	effect := func(_ context.Context, sc *SyscallContext, _ *Resolution) ([]byte, error) {
		w.effects.Add(1)
		return append([]byte("did "), sc.Payload...), nil
	}
	resolve := func(scheme string) func(context.Context, *SyscallContext) (Resolution, error) {
		return func(_ context.Context, sc *SyscallContext) (Resolution, error) {
			w.resolves.Add(1)
			r := Resolution{Resources: []string{scheme + "://" + path.Clean(sc.Args[0])}, Object: io.Closer(closer(func() { w.closed.Add(1) }))}
			if len(sc.Args) > 1 && sc.Args[1] == "w" {
				r.Also = []string{"file_write"}
			}
			if sc.Args[0] == "/data/missing" {
				r.Err = Fail(CodeNotFound, "no such file")
			}
			return r, nil
		}
	}
	err := reg.Register(
		Registration{Name: "file_open", Args: []string{"path", "mode"}, MinTrust: capability.Limited, Resolve: resolve("file"), Handler: effect},
		Registration{Name: "file_write", Args: []string{"path"}, MinTrust: capability.Standard, World: true, Resolve: resolve("file"), Handler: effect},
		Registration{Name: "time_get", Args: []string{"clock"}, MinTrust: capability.Limited, Resolve: resolve("clock"), Handler: effect},
		Registration{Name: "secret_get", Args: []string{"name"}, MinTrust: capability.Standard, Privileged: true, Resolve: resolve("clock"), Handler: effect},
		Registration{Name: "file_close", Args: []string{"path"}, MinTrust: capability.Limited, Release: true, Handler: effect},
		Registration{Name: "proc_create", Args: []string{"path"}, Handler: effect},
		Registration{Name: "boom", MinTrust: capability.Limited, Handler: func(context.Context, *SyscallContext, *Resolution) ([]byte, error) { panic("boom") }},
		Registration{Name: "blocks", MinTrust: capability.Limited, Handler: func(ctx context.Context, _ *SyscallContext, _ *Resolution) ([]byte, error) {
			w.effects.Add(1)
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}},
	)
	if err != nil {
		t.Fatal(err)
	}
	graph, err := reg.Compile(policies, mode)
	if err != nil {
		t.Fatal(err)
	}
	w.gate, err = NewGate(GateOptions{Registry: reg, Graph: graph, Log: w.log, Clock: func() time.Time { return w.now },
		Isolate: func(_ *Subject, d zta.Decision) string { w.isolated = append(w.isolated, d); return "Q-1" }})
	if err != nil {
		t.Fatal(err)
	}
	set, err := capability.New(grant)
	if err != nil {
		t.Fatal(err)
	}
	id := zta.Identity{ID: "tester", TrustVector: zta.Signed}
	w.subject = &Subject{Plugin: "p", Identity: id, TrustLevel: capability.Core, Capabilities: set,
		ExecutionDNA: zta.NewExecutionDNA("c", id), Container: NewContainer("c")}
	return w
}

func (w *world) do(name string, args ...string) SyscallResult {
	return w.gate.SecureSyscall(context.Background(), &SyscallContext{Subject: w.subject, Syscall: name, Args: args})
}

var (
	everything = capability.Grant{Syscalls: []string{"*"}, Resources: []string{"file:///**"}}
	allowAll   = zta.Policy{Name: "all", Syscalls: []string{"*"}}
)

func TestSyscallIsRecordedBeforeAndAfter(t *testing.T) {
	w := newWorld(t, zta.Enforce, everything, allowAll)
	res := w.do("file_write", "/data/x")
	if res.Status != Success || string(res.Data) != "did " {
		t.Fatalf("got %+v", res)
	}
	recs := w.log.syscalls()
	if len(recs) != 2 || recs[0].Phase != audit.PhaseIntent || recs[1].Phase != audit.PhaseOutcome {
		t.Fatalf("want intent and outcome, got %+v", recs)
	}
	if recs[1].Intent != audit.Closes(recs[0].Seq) || recs[1].Outcome != "ok" {
		t.Errorf("the outcome does not close its intent: %+v", recs[1])
	}
	if r := recs[0]; r.Resources[0] != "file:///data/x" || r.Subject != "tester" || r.Container != "c" || r.Rule != "all" || r.Policy == "" {
		t.Errorf("incomplete record: %+v", r)
	}
	if w.closed.Load() != 1 {
		t.Errorf("the resolved object was closed %d times, want once", w.closed.Load())
	}
}

// TestDenials walks every way in which a syscall is refused: none reaches its
// effect, each is on record with the rule that decided, in every mode.
func TestDenials(t *testing.T) {
	narrow := capability.Grant{Syscalls: []string{"file_open", "time_get", "proc_create", "blocks"}, Resources: []string{"file:///data/**"}}
	cases := []struct {
		name    string
		syscall string
		args    []string
		rule    string
		resolve bool // whether anything may be looked at
	}{
		{"unknown syscall", "file_frobnicate", []string{"x"}, "registry", false},
		{"missing argument", "file_open", []string{"/data/x"}, "arguments", false},
		{"too many arguments", "time_get", []string{"wall", "x"}, "arguments", false},
		{"arguments too long", "time_get", []string{strings.Repeat("x", MaxArgBytes+1)}, "arguments", false},
		{"name not granted", "file_write", []string{"/data/x"}, "capability", false},
		{"resource not granted", "file_open", []string{"/etc/passwd", "r"}, "capability", true},
		{"implied name not granted", "file_open", []string{"/data/x", "w"}, "capability", true},
		{"trust too low", "proc_create", []string{"/bin/sh"}, "trust", true},
	}
	for _, mode := range []zta.Mode{zta.Enforce, zta.Audit, zta.Permissive} {
		for _, tc := range cases {
			t.Run(mode.String()+"/"+tc.name, func(t *testing.T) {
				w := newWorld(t, mode, narrow, allowAll)
				res := w.do(tc.syscall, tc.args...)
				if res.Status != Blocked || res.Reason == "" {
					t.Fatalf("got %+v, want Blocked with a reason", res)
				}
				if w.effects.Load() != 0 {
					t.Error("the effect happened")
				}
				if got := w.resolves.Load() > 0; got && !tc.resolve {
					t.Error("something was looked at for a call that is refused by its name")
				}
				recs := w.log.syscalls()
				if len(recs) != 1 || recs[0].Decision != "blocked" || recs[0].Rule != tc.rule || recs[0].Effect != "" {
					t.Fatalf("records %+v, want one, blocked by %s", recs, tc.rule)
				}
				if recs[0].Level != "trusted" || recs[0].Score == 0 {
					t.Errorf("the record has level %s and score %v of a signed plugin with a clean history", recs[0].Level, recs[0].Score)
				}
			})
		}
	}
}

func TestNoPolicyDenies(t *testing.T) {
	w := newWorld(t, zta.Enforce, everything)
	if res := w.do("time_get", "wall"); res.Status != Blocked || w.effects.Load() != 0 {
		t.Fatalf("got %+v without a policy", res)
	}
}

func TestZeroSubjectDenies(t *testing.T) {
	w := newWorld(t, zta.Enforce, everything, allowAll)
	for name, s := range map[string]*Subject{"nil": nil, "zero": {}, "no set": {Container: NewContainer("x"), TrustLevel: capability.Core, Identity: w.subject.Identity}} {
		res := w.gate.SecureSyscall(context.Background(), &SyscallContext{Subject: s, Syscall: "time_get", Args: []string{"wall"}})
		if res.Status != Blocked {
			t.Errorf("%s subject: got %+v", name, res)
		}
	}
	if w.effects.Load() != 0 {
		t.Error("an effect happened")
	}
}

func TestAliases(t *testing.T) {
	w := newWorld(t, zta.Enforce, capability.Grant{Syscalls: []string{"read_file"}, Resources: []string{"file:///data/**"}}, zta.Policy{Name: "a", Syscalls: []string{"open_file"}})
	if res := w.do("open_file", "/data/x", "r"); res.Status != Success {
		t.Fatalf("got %+v", res)
	}
	if r := w.log.syscalls()[0]; r.Syscall != "file_open" {
		t.Errorf("recorded as %s, want the canonical name", r.Syscall)
	}
}

func TestResolvedFailureIsToldOnlyWhenAllowed(t *testing.T) {
	w := newWorld(t, zta.Enforce, capability.Grant{Syscalls: []string{"file_open"}, Resources: []string{"file:///elsewhere"}}, allowAll)
	if res := w.do("file_open", "/data/missing", "r"); res.Status != Blocked {
		t.Errorf("outside the grant: got %+v, which tells whether the file is there", res)
	}
	w = newWorld(t, zta.Enforce, everything, allowAll)
	res := w.do("file_open", "/data/missing", "r")
	if res.Status != Failure || res.Err.Code != CodeNotFound {
		t.Errorf("inside the grant: got %+v", res)
	}
}

// TestUnrecordedIsDenied fails the log at every record of a syscall in turn:
// no effect may happen without its intent.
func TestUnrecordedIsDenied(t *testing.T) {
	broken := errors.New("no space left on device")
	t.Run("intent", func(t *testing.T) {
		w := newWorld(t, zta.Permissive, everything, allowAll)
		w.log.fail = func(*audit.Record) error { return broken }
		res := w.do("file_write", "/data/x")
		if res.Status != Blocked || !strings.Contains(res.Reason, broken.Error()) || w.effects.Load() != 0 {
			t.Fatalf("got %+v after %d effects", res, w.effects.Load())
		}
	})
	t.Run("open of a run", func(t *testing.T) {
		w := newWorld(t, zta.Enforce, everything, allowAll)
		c := w.begin(t)
		w.log.fail = func(*audit.Record) error { return broken }
		if res := c.Syscall(c.Context(), "time_get", []string{"wall"}, 0, nil); res.Status != Blocked || w.effects.Load() != 0 {
			t.Fatalf("got %+v after %d effects", res, w.effects.Load())
		}
		if !c.Unrecorded() {
			t.Error("the call does not know")
		}
		if err := c.End(nil, nil); err == nil || strings.Contains(err.Error(), "nothing is carried out") {
			t.Errorf("a call whose end is not on record ended with %v", err)
		}
	})
	t.Run("counts of a run", func(t *testing.T) {
		w := newWorld(t, zta.Enforce, everything, allowAll)
		c := w.begin(t)
		c.Syscall(c.Context(), "time_get", []string{"wall"}, 0, nil)
		w.log.fail = func(*audit.Record) error { return broken }
		c.tick()
		var denied *DeniedError
		if cause := context.Cause(c.Context()); !errors.As(cause, &denied) || !strings.Contains(cause.Error(), broken.Error()) {
			t.Errorf("the call goes on, or ended without the reason: %v", cause)
		}
		_ = c.End(nil, nil)
	})
	t.Run("outcome", func(t *testing.T) {
		w := newWorld(t, zta.Enforce, everything, allowAll)
		w.log.fail = func(r *audit.Record) error {
			if r.Phase == audit.PhaseOutcome {
				return broken
			}
			return nil
		}
		if res := w.do("file_write", "/data/x"); res.Status != Failure || w.effects.Load() != 1 {
			t.Fatalf("got %+v", res)
		}
	})
	t.Run("disk", func(t *testing.T) {
		w := newWorld(t, zta.Enforce, everything, allowAll)
		w.log.failSyn = broken
		if res := w.do("secret_get", "key"); res.Status != Blocked || w.effects.Load() != 0 {
			t.Fatalf("got %+v after %d effects", res, w.effects.Load())
		}
	})
	t.Run("call", func(t *testing.T) {
		w := newWorld(t, zta.Enforce, everything, allowAll)
		w.log.fail = func(*audit.Record) error { return broken }
		if _, err := w.gate.Begin(context.Background(), w.subject, "f", nil); err == nil {
			t.Fatal("a call began off the record")
		}
	})
}

func TestPrivilegedWaitsForTheDisk(t *testing.T) {
	w := newWorld(t, zta.Enforce, everything, allowAll)
	w.do("time_get", "wall")
	if len(w.log.synced) != 0 {
		t.Error("an ordinary syscall waited for the disk")
	}
	w.do("secret_get", "key")
	if len(w.log.synced) != 1 {
		t.Error("a privileged syscall did not wait for the disk")
	}
}

// TestCancelledSyscallIsInterrupted: whose caller has gone gets EINTR, not a
// report of a broken disk.
func TestCancelledSyscallIsInterrupted(t *testing.T) {
	w := newWorld(t, zta.Enforce, everything, allowAll)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, name := range []string{"blocks", "time_get"} {
		args := map[string][]string{"time_get": {"wall"}}[name]
		res := w.gate.SecureSyscall(ctx, &SyscallContext{Subject: w.subject, Syscall: name, Args: args})
		if res.Status != Failure || res.Err.Code != CodeInterrupted {
			t.Errorf("%s: %+v, %v", name, res, res.Err)
		}
	}
}

func TestHandlerPanicIsAFailure(t *testing.T) {
	w := newWorld(t, zta.Enforce, everything, allowAll)
	if res := w.do("boom"); res.Status != Failure || !strings.Contains(res.Err.Message, "panicked") {
		t.Fatalf("got %+v", res)
	}
	if err := drainNow(w.subject.Container); err == nil {
		t.Error("drained although alive")
	}
	w.subject.Container.Quarantine("x")
	if err := drainNow(w.subject.Container); err != nil {
		t.Errorf("the panic left a pin: %v", err)
	}
}

func drainNow(c *Container) error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	select {
	case <-c.drained:
		return nil
	default:
		return c.Drain(ctx)
	}
}

func (w *world) begin(t testing.TB) *Call {
	t.Helper()
	c, err := w.gate.Begin(context.Background(), w.subject, "f", []byte("in"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestFolding: repeats that were decided alike share an opening and a closing
// record whose count adds up; what changes the world never does.
func TestFolding(t *testing.T) {
	w := newWorld(t, zta.Enforce, everything, allowAll)
	c := w.begin(t)
	for range 1000 {
		c.Syscall(c.Context(), "time_get", []string{"wall"}, 0, nil)
	}
	c.Syscall(c.Context(), "time_get", []string{"monotonic"}, 0, nil)
	for range 3 {
		c.Syscall(c.Context(), "file_write", []string{"/data/x"}, 0, []byte("abc"))
	}
	if err := c.End([]byte("out"), nil); err != nil {
		t.Fatal(err)
	}
	var opens, intents int
	folded := map[string]uint64{}
	for _, r := range w.log.syscalls() {
		switch r.Phase {
		case audit.PhaseOpen:
			opens++
		case audit.PhaseFold, audit.PhaseClose:
			folded[r.Resources[0]] += r.Count
		case audit.PhaseIntent:
			intents++
			if r.Syscall != "file_write" || r.Digest == "" || r.Bytes != 3 {
				t.Errorf("intent %+v", r)
			}
		}
	}
	if opens != 2 || folded["clock://wall"] != 1000 || folded["clock://monotonic"] != 1 {
		t.Errorf("%d openings, counts %v", opens, folded)
	}
	if intents != 3 {
		t.Errorf("%d intents of what changes the world, want 3", intents)
	}
	if w.effects.Load() != 1004 {
		t.Errorf("%d effects", w.effects.Load())
	}
}

// TestFoldsAreBounded: a guest that varies what it asks for cannot make the
// gate keep an unbounded number of runs, and all is on record even so.
func TestFoldsAreBounded(t *testing.T) {
	w := newWorld(t, zta.Enforce, everything, allowAll)
	c := w.begin(t)
	const n = maxFolds * 2
	for i := range n {
		c.Syscall(c.Context(), "file_open", []string{"/data/" + utoa(uint64(i)), "r"}, 0, nil)
	}
	if len(c.folds) > maxFolds {
		t.Errorf("%d runs kept", len(c.folds))
	}
	_ = c.End(nil, nil)
	seen := map[string]bool{}
	for _, r := range w.log.syscalls() {
		if r.Phase == audit.PhaseOpen || r.Phase == audit.PhaseIntent {
			seen[r.Resources[0]] = true
		}
	}
	if len(seen) != n {
		t.Errorf("%d of %d on record", len(seen), n)
	}
}

func TestViolationQuarantines(t *testing.T) {
	p := allowAll
	p.Args = map[int]zta.ArgConstraint{0: {Deny: `\.\.`}}
	p.OnViolation = zta.Quarantine
	w := newWorld(t, zta.Enforce, everything, p)
	c := w.begin(t)
	sc := &SyscallContext{Subject: w.subject}
	h, err := sc.Open(closer(func() { w.closed.Add(1) }), "file:///data/x")
	if err != nil {
		t.Fatal(err)
	}
	res := c.Syscall(c.Context(), "file_open", []string{"/data/../etc/passwd", "r"}, 0, nil)
	if res.Status != Quarantined || !strings.Contains(res.Reason, "case Q-1") {
		t.Fatalf("got %+v", res)
	}
	if len(w.isolated) != 1 || w.isolated[0].Outcome != zta.Quarantine {
		t.Errorf("isolated %+v", w.isolated)
	}
	if c.Context().Err() == nil {
		t.Error("the call's context lives on")
	}
	sc.Handle = h
	if _, _, ok := sc.Object(); ok {
		t.Error("a handle survived")
	}
	before := w.effects.Load()
	if res := w.do("time_get", "wall"); res.Status != Quarantined || w.effects.Load() != before {
		t.Errorf("after quarantine: %+v", res)
	}
	if _, err := w.gate.Begin(context.Background(), w.subject, "f", nil); err == nil {
		t.Error("a quarantined plugin was called")
	}
	last := w.log.syscalls()
	if r := last[len(last)-1]; r.Decision != "quarantined" {
		t.Errorf("the refused call is recorded as %+v", r)
	}
}

// TestHostIsolates: the host opens the case before the container is quarantined,
// so that whoever is refused by the container learns the case's number.
func TestHostIsolates(t *testing.T) {
	p := allowAll
	p.Args = map[int]zta.ArgConstraint{0: {Deny: `\.\.`}}
	p.OnViolation = zta.Quarantine
	w := newWorld(t, zta.Enforce, everything, p)
	w.gate.isolate = func(s *Subject, _ zta.Decision) string {
		if s.Container.Dead() {
			t.Error("the container was quarantined without a case")
		}
		s.Container.Quarantine("case Q-7: escape")
		return "Q-7"
	}
	c := w.begin(t)
	c.Syscall(c.Context(), "file_open", []string{"/data/../etc/passwd", "r"}, 0, nil)
	if cause := context.Cause(c.Context()); cause == nil || cause.Error() != "quarantined: case Q-7: escape" {
		t.Errorf("the call ended with %v", cause)
	}
	if res := w.do("time_get", "wall"); res.Status != Quarantined || res.Reason != "case Q-7: escape" {
		t.Errorf("got %+v", res)
	}
	_ = c.End(nil, nil)
}

// TestOverreachMayBeAViolation: what the capability set refuses is still looked
// at by policy, which can make it worse and never better.
func TestOverreachMayBeAViolation(t *testing.T) {
	p := allowAll
	p.Args = map[int]zta.ArgConstraint{0: {Deny: `\.\.`}}
	p.OnViolation = zta.Quarantine
	narrow := capability.Grant{Syscalls: []string{"file_open"}, Resources: []string{"file:///data/**"}}
	w := newWorld(t, zta.Enforce, narrow, p)
	if res := w.do("file_open", "/etc/passwd", "r"); res.Status != Blocked {
		t.Errorf("no violation: %+v", res)
	}
	if res := w.do("file_open", "/data/../etc/passwd", "r"); res.Status != Quarantined {
		t.Errorf("violation: %+v", res)
	}
	w = newWorld(t, zta.Permissive, narrow, p)
	if res := w.do("file_open", "/data/../etc/passwd", "r"); res.Status != Blocked || w.effects.Load() != 0 {
		t.Errorf("permissive: %+v", res)
	}
}

func TestThresholdFreezes(t *testing.T) {
	w := newWorld(t, zta.Enforce, capability.Grant{Syscalls: []string{"time_get"}}, allowAll)
	var res SyscallResult
	for range 100 {
		if res = w.do("file_write", "/data/x"); w.subject.Container.Live() != nil {
			break
		}
	}
	if len(w.isolated) != 1 || w.isolated[0].Outcome != zta.Freeze || !strings.Contains(res.Reason, "frozen") {
		t.Fatalf("isolated %+v, last %+v", w.isolated, res)
	}
	if res := w.do("time_get", "wall"); res.Status != Blocked {
		t.Errorf("a frozen container's call: %+v", res)
	}
	w.subject.Container.Release()
	if res := w.do("time_get", "wall"); res.Status != Success {
		t.Errorf("after release: %+v", res)
	}
}

// TestModes: a mode changes whether a violation takes effect, never what is
// recorded of it.
func TestModes(t *testing.T) {
	p := zta.Policy{Name: "trusted-only", Syscalls: []string{"time_get"}, DenyIdentities: []string{"tester"}, OnViolation: zta.Quarantine}
	for _, mode := range []zta.Mode{zta.Enforce, zta.Audit, zta.Permissive} {
		w := newWorld(t, mode, everything, p)
		res := w.do("time_get", "wall")
		r := w.log.syscalls()[0]
		if r.Decision != "quarantined" || r.Rule != "trusted-only" {
			t.Errorf("%s: recorded as %+v", mode, r)
		}
		full := w.subject.ExecutionDNA.Integrity(w.now) == 100
		switch mode {
		case zta.Enforce:
			if res.Status != Quarantined || r.Effect != "" || full {
				t.Errorf("enforce: %+v, effect %q", res, r.Effect)
			}
		default:
			if res.Status != Success || r.Effect != "would_block" || len(w.isolated) != 0 {
				t.Errorf("%s: %+v, effect %q", mode, res, r.Effect)
			}
			if full != (mode == zta.Permissive) {
				t.Errorf("%s: integrity %v", mode, w.subject.ExecutionDNA.Integrity(w.now))
			}
		}
	}
}

func TestReleaseNeedsNeitherGrantNorPolicy(t *testing.T) {
	w := newWorld(t, zta.Enforce, capability.Grant{Syscalls: []string{"file_open"}})
	if res := w.do("file_close", "/data/x"); res.Status != Success {
		t.Fatalf("got %+v", res)
	}
}

func TestRegistryPolicyIsPartOfTheGraph(t *testing.T) {
	w := newWorld(t, zta.Enforce, everything)
	reg := w.gate.Registry()
	reg.SetPolicy("clock", SyscallPolicy{Syscall: "time_get", ArgConstraints: map[int]string{0: "^wall$"},
		CustomValidator: func(r *zta.Request) bool { return r.Identity.ID == "tester" }})
	graph, err := reg.Compile(nil, zta.Enforce)
	if err != nil {
		t.Fatal(err)
	}
	w.gate.SetPolicyGraph(graph)
	if res := w.do("time_get", "wall"); res.Status != Success {
		t.Errorf("got %+v", res)
	}
	if res := w.do("time_get", "monotonic"); res.Status != Blocked {
		t.Errorf("got %+v", res)
	}
}

// TestGrantsAreMonotone: a smaller capability set never permits more.
func TestGrantsAreMonotone(t *testing.T) {
	names := []string{"file_open", "file_write", "time_get", "file_*", "*", "read_file"}
	res := []string{"file:///data/**", "file:///data/x", "file:///**"}
	rapid.Check(t, func(t *rapid.T) {
		big := capability.Grant{
			Syscalls:  rapid.SliceOf(rapid.SampledFrom(names)).Draw(t, "syscalls"),
			Resources: rapid.SliceOf(rapid.SampledFrom(res)).Draw(t, "resources"),
		}
		small := capability.Grant{}
		for _, s := range big.Syscalls {
			if rapid.Bool().Draw(t, "keep") {
				small.Syscalls = append(small.Syscalls, s)
			}
		}
		for _, r := range big.Resources {
			if rapid.Bool().Draw(t, "keep") {
				small.Resources = append(small.Resources, r)
			}
		}
		name := rapid.SampledFrom([]string{"file_open", "file_write", "time_get"}).Draw(t, "syscall")
		args := []string{rapid.SampledFrom([]string{"/data/x", "/data/y", "/etc/z"}).Draw(t, "arg")}
		if name == "file_open" {
			args = append(args, rapid.SampledFrom([]string{"r", "w"}).Draw(t, "mode"))
		}
		if newWorld(t, zta.Enforce, small, allowAll).do(name, args...).Status == Success &&
			newWorld(t, zta.Enforce, big, allowAll).do(name, args...).Status != Success {
			t.Fatalf("%+v permits what %+v does not", small, big)
		}
	})
}

// TestNoStaleAllow: once SetPolicyGraph has returned, nothing is decided by the
// policy before.
func TestNoStaleAllow(t *testing.T) {
	w := newWorld(t, zta.Enforce, everything, allowAll)
	w.subject.ExecutionDNA = nil // its thresholds are not the point here
	open := w.gate.GetPolicyGraph()
	shut, err := w.gate.Registry().Compile(nil, zta.Enforce)
	if err != nil {
		t.Fatal(err)
	}
	var closedAt atomic.Int64 // even: open, odd: shut
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				before := closedAt.Load()
				res := w.do("time_get", "wall")
				if after := closedAt.Load(); before == after && before%2 == 1 && res.Status == Success {
					t.Error("allowed although the policy that allows it had been replaced")
					return
				}
			}
		}()
	}
	for range 500 {
		w.gate.SetPolicyGraph(shut)
		closedAt.Add(1)
		time.Sleep(10 * time.Microsecond)
		closedAt.Add(1)
		w.gate.SetPolicyGraph(open)
	}
	close(stop)
	wg.Wait()
}

// TestQuarantineStopsEffects: once a drain has returned no effect is in flight
// and none begins.
func TestQuarantineStopsEffects(t *testing.T) {
	for range 50 {
		w := newWorld(t, zta.Enforce, everything, allowAll)
		var wg sync.WaitGroup
		for range 8 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for w.do("blocks").Status != Quarantined {
				}
			}()
		}
		for w.effects.Load() < 8 {
			time.Sleep(time.Microsecond)
		}
		w.subject.Container.Quarantine("test")
		if err := w.subject.Container.Drain(context.Background()); err != nil {
			t.Fatal(err)
		}
		before := w.effects.Load()
		wg.Wait()
		if w.effects.Load() != before {
			t.Fatal("an effect began after the drain")
		}
	}
}

// TestHugeArgumentsAreOnRecord: nothing that a guest can say makes its denial
// too large for the real log.
func TestHugeArgumentsAreOnRecord(t *testing.T) {
	w := newWorld(t, zta.Enforce, capability.Grant{}, allowAll)
	log, err := audit.Open(audit.Options{Dir: t.TempDir(), Name: "test", AllowGenerate: true})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	w.gate.log = log
	many := make([]string, MaxArgs)
	for i := range many {
		many[i] = strings.Repeat("\x01", MaxArgBytes/MaxArgs)
	}
	before := log.Head().Records
	n := uint64(0)
	for _, args := range [][]string{{strings.Repeat("\x01", MaxArgBytes)}, {strings.Repeat("\xff", 10*MaxArgBytes)}, many, make([]string, 100_000)} {
		w.do("file_write", args...)
		w.do(strings.Repeat("\x1b", 100_000), args...)
		n += 2
	}
	if got := log.Head().Records - before; got != n {
		t.Errorf("%d of %d denials on record", got, n)
	}
}
