package host_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/zta"
)

// eventually waits for what happens in the background.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("never: " + what)
}

func (k *kernel) expect(id uuid.UUID, want host.PluginPhase) host.PluginStatus {
	k.t.Helper()
	st := k.status(id)
	if st.Phase != want {
		k.t.Fatalf("status %s, want %s", st, want)
	}
	return st
}

// TestIsolationIsOfTheArtifact: all that run the artifact stop with the one
// that violated, and what is at rest does not start.
func TestIsolationIsOfTheArtifact(t *testing.T) {
	both(t, artifacts.rogueWasm, artifacts.rogue, func(t *testing.T, artifact string) {
		k := newKernel(t)
		a, b := k.start(k.config("a", artifact)), k.start(k.config("b", artifact))
		paused, atRest := k.start(k.config("paused", artifact)), k.load(k.config("at-rest", artifact))
		if err := k.PausePlugin(ctx, paused); err != nil {
			t.Fatal(err)
		}
		other := k.start(k.config("other", artifacts.summariseWasm))
		bBefore, _ := k.Plugin(b)
		if _, err := k.Call(ctx, a, "escape", nil); err == nil {
			t.Fatal("escaped")
		}
		id := k.expect(a, host.PluginQuarantined).Case
		for _, p := range []uuid.UUID{b, paused, atRest} {
			if st := k.expect(p, host.PluginQuarantined); st.Case != id {
				t.Errorf("by case %s, want %s", st.Case, id)
			}
			var denied *abi.DeniedError
			if _, err := k.Call(ctx, p, "env", nil); !errors.As(err, &denied) || denied.Status != abi.Quarantined || strings.Count(err.Error(), id) != 1 {
				t.Errorf("call: %v", err)
			}
			if err := k.StartPlugin(ctx, p); !errors.Is(err, host.ErrQuarantined) {
				t.Errorf("start: %v", err)
			}
		}
		if bBefore.PID != 0 {
			eventually(t, "the other process is gone", func() bool { return !alive(bBefore.PID) })
		}
		if _, err := k.Call(ctx, other, "summarise", []byte("/data/report.txt")); err != nil {
			t.Errorf("another artifact: %v", err)
		}
		if n := len(k.Cases().List()); n != 1 {
			t.Errorf("%d cases, want 1", n)
		}
		if _, err := k.ReleaseCase(ctx, id, "tester", "looked into it"); err != nil {
			t.Fatal(err)
		}
		for _, p := range []uuid.UUID{a, b, paused, atRest} {
			k.expect(p, host.PluginStopped)
		}
		if err := k.StartPlugin(ctx, b); err != nil {
			t.Error(err)
		}
	})
}

// TestReleaseReachesStoredHistory: the integrity that a release leaves holds
// although no plugin of the artifact is loaded when it is given.
func TestReleaseReachesStoredHistory(t *testing.T) {
	k := newKernel(t)
	id := k.start(k.config("a", artifacts.rogueWasm))
	_, _ = k.Call(ctx, id, "escape", nil)
	c := k.expect(id, host.PluginQuarantined).Case
	k.down()
	k.up()
	if _, err := k.ReleaseCase(ctx, c, "tester", "looked into it"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // as released, and after a restart
		id = k.load(k.config("b", artifacts.rogueWasm))
		if p, _ := k.Plugin(id); p.Integrity < zta.ReleasedIntegrity || p.Integrity > zta.ReleasedIntegrity+1 {
			t.Errorf("integrity %v", p.Integrity)
		}
		k.down()
		k.up()
	}
}

// frozen is a kernel whose policy freezes.
func frozen(t *testing.T) *kernel {
	k := newKernel(t)
	p := inboxPolicies[0]
	p.OnViolation = zta.Freeze
	k.policies = []zta.Policy{p, inboxPolicies[1]}
	if err := k.SetPolicies(ctx, zta.Enforce, k.policies...); err != nil {
		t.Fatal(err)
	}
	return k
}

// TestFreeze: a freeze is a pause that only a release ends; stop and start, a
// reload, another plugin of the artifact and a restart all keep it.
func TestFreeze(t *testing.T) {
	k := frozen(t)
	cfg := k.config("a", artifacts.rogueWasm)
	id, twin := k.start(cfg), k.start(k.config("twin", artifacts.rogueWasm))
	if err := k.PausePlugin(ctx, twin); err != nil {
		t.Fatal(err)
	}
	_, _ = k.Call(ctx, id, "escape", nil)
	st := k.expect(id, host.PluginPaused)
	if st.Case == "" || k.status(twin) != st {
		t.Fatalf("status %s, its twin's %s", st, k.status(twin))
	}
	refused := func(what string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), st.Case) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := k.Call(ctx, id, "env", nil)
	refused("call", err)
	refused("resume", k.ResumePlugin(ctx, id))
	refused("reload", k.ReloadPlugin(ctx, id, nil))
	for range 2 {
		if err := errors.Join(k.StopPlugin(ctx, id), k.StartPlugin(ctx, id)); err != nil {
			t.Fatal(err)
		}
		k.expect(id, host.PluginPaused)
		_, err = k.Call(ctx, id, "env", nil)
		refused("call after stop and start", err)
	}
	if _, err := k.ReleaseCase(ctx, st.Case, "tester", "looked into it"); err != nil {
		t.Fatal(err)
	}
	k.expect(id, host.PluginActive)
	k.expect(twin, host.PluginPaused) // which it was before
	if err := k.ResumePlugin(ctx, twin); err != nil {
		t.Error(err)
	}
	k.expect(twin, host.PluginActive)
	var fe *host.FunctionError
	if _, err := k.Call(ctx, twin, "env", nil); !errors.As(err, &fe) && !strings.Contains(err.Error(), "frozen") {
		t.Errorf("call after release: %v", err)
	}
}

func TestFreezeOutlivesARestart(t *testing.T) {
	k := frozen(t)
	id := k.start(k.config("a", artifacts.rogueWasm))
	_, _ = k.Call(ctx, id, "escape", nil)
	c := k.expect(id, host.PluginPaused).Case
	k.down()
	k.up()
	id = k.start(k.config("b", artifacts.rogueWasm))
	if st := k.expect(id, host.PluginPaused); st.Case != c {
		t.Errorf("status %s", st)
	}
	if err := errors.Join(k.StopPlugin(ctx, id), k.UnloadPlugin(ctx, id)); err != nil {
		t.Error(err)
	}
}

// TestLivesUnderFire runs every verb, calls that end in every way, crashes,
// quarantines and releases at once: nothing may panic, hang or race, and what
// is left must still work.
func TestLivesUnderFire(t *testing.T) {
	both(t, artifacts.rogueWasm, artifacts.rogue, func(t *testing.T, artifact string) {
		k := newKernel(t)
		cfg := k.config("a", artifact)
		cfg.Limits.Timeout = 5 * time.Second
		id, twin := k.start(cfg), k.start(k.config("twin", artifact))
		until := time.Now().Add(500 * time.Millisecond)
		var wg sync.WaitGroup
		forever := func(f func()) {
			wg.Go(func() {
				for time.Now().Before(until) {
					f()
				}
			})
		}
		for _, function := range []string{"write", "env", "crash", "escape"} {
			forever(func() {
				_, _ = k.Call(ctx, id, function, nil)
				_, _ = k.Call(ctx, twin, "env", nil)
			})
		}
		forever(func() { _, _ = k.PausePlugin(ctx, id), k.ResumePlugin(ctx, id) })
		forever(func() { _, _ = k.StopPlugin(ctx, id), k.StartPlugin(ctx, id) })
		forever(func() { _, _ = k.ReloadPlugin(ctx, id, &cfg), k.StartPlugin(ctx, twin) })
		forever(func() {
			k.Plugins()
			for _, c := range k.Cases().List() {
				_, _ = k.ReleaseCase(ctx, c.ID, "tester", "again")
			}
			time.Sleep(time.Millisecond)
		})
		wg.Wait()
		for _, c := range k.Cases().List() {
			_, _ = k.ReleaseCase(ctx, c.ID, "tester", "at last")
		}
		switch k.status(id).Phase {
		case host.PluginPaused:
			if err := k.ResumePlugin(ctx, id); err != nil {
				t.Fatal(err)
			}
		case host.PluginStopped, host.PluginFailed:
			if err := k.StartPlugin(ctx, id); err != nil {
				t.Fatal(err)
			}
		}
		var fe *host.FunctionError
		if _, err := k.Call(ctx, id, "write", nil); !errors.As(err, &fe) {
			t.Errorf("afterwards: %v, status %s", err, k.status(id))
		}
	})
}
