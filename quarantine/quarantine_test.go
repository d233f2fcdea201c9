package quarantine_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/quarantine"
	"forgeone.dev/forgeone/state"
	"forgeone.dev/forgeone/zta"
)

var ctx = context.Background()

// log is a log in memory that can be made to fail.
type log struct {
	mu           sync.Mutex
	verbs        []string
	fail, failed error // of Append, of Sync
}

func (l *log) Append(r *audit.Record) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return 0, l.fail
	}
	l.verbs = append(l.verbs, r.Details["verb"])
	return uint64(len(l.verbs)), nil
}

func (l *log) Sync(context.Context, uint64) error { return l.failed }

// container notes what is done to it.
type container struct {
	mu    sync.Mutex
	did   []string
	drain func(context.Context) error
}

func (c *container) note(s string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.did = append(c.did, s)
}

func (c *container) Hold(reason string)       { c.note("hold: " + reason) }
func (c *container) Quarantine(reason string) { c.note("quarantine: " + reason) }
func (c *container) Drain(ctx context.Context) error {
	c.note("drain")
	if c.drain != nil {
		return c.drain(ctx)
	}
	return nil
}

func load(t *testing.T, db *state.DB, l quarantine.Log) *quarantine.Cases {
	t.Helper()
	c, err := quarantine.Load(db, l, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func open(t *testing.T, dir string) *state.DB {
	t.Helper()
	db, err := state.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func of(o zta.Outcome, artifact string) quarantine.Case {
	return quarantine.Case{Outcome: o.String(), Plugin: "p", Artifact: artifact, Reason: "it tried"}
}

func TestOneCaseIsOpenForEachStrength(t *testing.T) {
	c := load(t, nil, &log{})
	for i, step := range []struct {
		outcome zta.Outcome
		id      string
		opened  bool
	}{
		{zta.Freeze, "Q-1", true}, {zta.Freeze, "Q-1", false}, {zta.Quarantine, "Q-2", true},
		{zta.Quarantine, "Q-2", false}, {zta.Freeze, "Q-2", false},
	} {
		if k, opened := c.Open(of(step.outcome, "a")); k.ID != step.id || opened != step.opened {
			t.Errorf("step %d: %s, %v", i, k.ID, opened)
		}
	}
	if k, opened := c.Open(of(zta.Freeze, "b")); k.ID != "Q-3" || !opened {
		t.Errorf("another artifact: %s, %v", k.ID, opened)
	}
	// Releasing the quarantine leaves the freeze.
	for _, want := range []string{"Q-2", "Q-1"} {
		if k, ok := c.Held("a"); !ok || k.ID != want {
			t.Fatalf("held by %s, %v, want %s", k.ID, ok, want)
		}
		if _, err := c.Release(ctx, want, "me", "looked"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Release(ctx, want, "me", "looked"); !errors.Is(err, quarantine.ErrReleased) {
			t.Errorf("released twice: %v", err)
		}
	}
	if k, ok := c.Held("a"); ok {
		t.Errorf("still held by %s", k.ID)
	}
}

func TestIsolateReachesEveryContainerBeforeItWaits(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "state"))
	l := &log{}
	c := load(t, db, l)
	var second container
	first := container{drain: func(context.Context) error {
		if len(second.did) == 0 {
			t.Error("waited for one container before the other was isolated")
		}
		return errors.New("stuck")
	}}
	k, _ := c.Open(of(zta.Quarantine, "a"))
	if err := c.Isolate(ctx, k, &first, &second); err != nil {
		t.Fatal(err)
	}
	want := []string{"quarantine: case Q-1: it tried", "drain"}
	if !slices.Equal(first.did, want) || !slices.Equal(second.did, want) {
		t.Errorf("%q and %q", first.did, second.did)
	}
	if got := []string{"opened", "undrained"}; !slices.Equal(l.verbs, got) {
		t.Errorf("on record: %q", l.verbs)
	}
	if k, _ := load(t, db, l).Get("Q-1"); k.Undrained != "stuck" || k.State != quarantine.Open {
		t.Errorf("stored: %+v", k)
	}
}

// TestReleaseWhileIsolating: what is released while its containers are waited
// for stays released, here and after a restart.
func TestReleaseWhileIsolating(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "state"))
	c := load(t, db, &log{})
	k, _ := c.Open(of(zta.Quarantine, "a"))
	stuck := &container{drain: func(context.Context) error {
		if _, err := c.Release(ctx, k.ID, "me", "looked"); err != nil {
			t.Error(err)
		}
		return errors.New("stuck")
	}}
	if err := c.Isolate(ctx, k, stuck); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*quarantine.Cases{c, load(t, db, &log{})} {
		if k, _ := c.Get("Q-1"); k.State != quarantine.Released || k.ReleasedBy != "me" || k.Undrained == "" {
			t.Errorf("%+v", k)
		}
	}
}

func TestCaseCountsWithoutTheLog(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "state"))
	c := load(t, db, &log{fail: errors.New("disk full")})
	k, _ := c.Open(of(zta.Quarantine, "a"))
	var box container
	if err := c.Isolate(ctx, k, &box); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("got %v", err)
	}
	if len(box.did) != 2 {
		t.Errorf("the container: %q", box.did)
	}
	if _, ok := load(t, db, &log{}).Held("a"); !ok {
		t.Error("forgotten by a restart")
	}
}

// TestReleaseCountsOnlyIfKept: neither the log nor the store may be missing it.
func TestReleaseCountsOnlyIfKept(t *testing.T) {
	full := errors.New("disk full")
	for name, broken := range map[string]func(*log, *state.DB){
		"append": func(l *log, _ *state.DB) { l.fail = full },
		"sync":   func(l *log, _ *state.DB) { l.failed = full },
		"store":  func(_ *log, db *state.DB) { _ = db.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			l, db := &log{}, open(t, filepath.Join(t.TempDir(), "state"))
			c := load(t, db, l)
			k, _ := c.Open(of(zta.Freeze, "a"))
			if err := c.Isolate(ctx, k); err != nil {
				t.Fatal(err)
			}
			broken(l, db)
			if _, err := c.Release(ctx, k.ID, "me", "looked"); err == nil {
				t.Error("released")
			}
			if _, ok := c.Held("a"); !ok {
				t.Error("no longer held")
			}
			if last := l.verbs[len(l.verbs)-1]; last == "released" {
				t.Error("the log ends with a release that was not")
			}
		})
	}
}

func TestOneReleaseWins(t *testing.T) {
	l := &log{}
	c := load(t, nil, l)
	k, _ := c.Open(of(zta.Freeze, "a"))
	var won atomic.Int64
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			switch _, err := c.Release(ctx, k.ID, fmt.Sprint(i), "looked"); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, quarantine.ErrReleased):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || len(l.verbs) != 1 {
		t.Errorf("%d releases counted, %q on record", won.Load(), l.verbs)
	}
}

func TestNumbersGoOnAfterARestart(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "state"))
	for i := range 12 { // past the point where names no longer sort as numbers
		c := load(t, db, &log{})
		k, _ := c.Open(of(zta.Quarantine, fmt.Sprint(i)))
		if want := fmt.Sprintf("Q-%d", i+1); k.ID != want {
			t.Fatalf("%s, want %s", k.ID, want)
		}
		if err := c.Isolate(ctx, k); err != nil {
			t.Fatal(err)
		}
	}
	if all := load(t, db, &log{}).List(); len(all) != 12 || all[11].ID != "Q-12" {
		t.Errorf("%d cases", len(all))
	}
}

func TestReleaseNeedsAReasonAndAName(t *testing.T) {
	c := load(t, nil, &log{})
	k, _ := c.Open(of(zta.Freeze, "a"))
	for _, by := range [][2]string{{"", "looked"}, {"me", " \n"}} {
		if _, err := c.Release(ctx, k.ID, by[0], by[1]); err == nil {
			t.Errorf("released by %q because of %q", by[0], by[1])
		}
	}
	if _, err := c.Release(ctx, "Q-9", "me", "looked"); !errors.Is(err, quarantine.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

func ExampleCases() {
	cases, err := quarantine.Load(nil, &log{}, time.Now)
	if err != nil {
		panic(err)
	}
	k, _ := cases.Open(quarantine.Case{Outcome: zta.Freeze.String(), Plugin: "p", Artifact: "3a6e…", Reason: "policy inbox: it left its inbox"})
	if err := cases.Isolate(context.Background(), k /* and the containers that run the artifact */); err != nil {
		panic(err)
	}
	held, _ := cases.Held("3a6e…")
	fmt.Println(held.ID, held.State, held.Outcome)
	k, err = cases.Release(context.Background(), k.ID, "alice", "the path was a typing mistake")
	if err != nil {
		panic(err)
	}
	fmt.Println(k.ID, k.State)
	// Output:
	// Q-1 open frozen
	// Q-1 released
}
