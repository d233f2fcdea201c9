package zta_test

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"forgeone.dev/forgeone/zta"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newDNA() *zta.ExecutionDNA {
	return zta.NewExecutionDNA("c-1", zta.Identity{ID: "reporting", TrustVector: zta.Signed})
}

func TestIntegrity(t *testing.T) {
	d := newDNA()
	if got := d.Integrity(start); got != 100 {
		t.Fatalf("a new container has integrity %v", got)
	}
	if got := d.Flag(start, zta.HandleAbuse); got != 90 {
		t.Fatalf("after handle abuse: %v, want 90", got)
	}
	if got := d.Integrity(start.Add(3 * time.Minute)); got != 93 {
		t.Errorf("three clean minutes later: %v, want 93", got)
	}
	if got := d.Integrity(start.Add(time.Hour)); got != 100 {
		t.Errorf("an hour later: %v, want 100", got)
	}
	if got := d.Integrity(start.Add(-time.Hour)); got != 90 {
		t.Errorf("with the clock set back: %v, want 90", got)
	}
	for range 200 {
		d.Flag(start, zta.Trap)
	}
	if got := d.Integrity(start); got != 0 {
		t.Errorf("after 200 traps: %v, want 0", got)
	}
	d.SetIntegrity(start, zta.ReleasedIntegrity)
	if got := zta.Verdict(d.Integrity(start)); got != zta.Allow {
		t.Errorf("after its release: %s", got)
	}
	d.SetIntegrity(start, math.NaN())
	if got := d.Integrity(start); got != 0 {
		t.Errorf("an integrity that is no number became %v", got)
	}
}

// A violation leaves a clean container where its policy wants it.
func TestFlagsOfViolations(t *testing.T) {
	if got := zta.Verdict(newDNA().Flag(start, zta.FreezeViolated)); got != zta.Freeze {
		t.Errorf("a freezing violation: %s", got)
	}
	if got := zta.Verdict(newDNA().Flag(start, zta.QuarantineViolated)); got != zta.Quarantine {
		t.Errorf("a quarantining violation: %s", got)
	}
	if got := newDNA().Flag(start, zta.QuarantineViolated+1); got != 0 {
		t.Errorf("a flag that does not exist left %v", got)
	}
	for f := range zta.QuarantineViolated + 1 {
		if f.Weight() <= 0 || strings.Contains(f.String(), "(") {
			t.Errorf("flag %s weighs %v", f, f.Weight())
		}
	}
}

func TestIntegrityStaysInRange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d, now := newDNA(), start
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(-int64(time.Hour), int64(time.Hour)).Draw(t, "elapsed")))
			at := d.Integrity(now)
			f := zta.RedFlag(rapid.IntRange(0, int(zta.QuarantineViolated)).Draw(t, "flag"))
			if got := d.Flag(now, f); got > at || got < 0 || at > 100 || got != d.Integrity(now) {
				t.Fatalf("%s took integrity from %v to %v", f, at, got)
			}
		}
	})
}

func TestDenials(t *testing.T) {
	d := newDNA()
	d.Observe(start, "file_open", zta.Block)
	d.Observe(start.Add(30*time.Second), "file_open", zta.Quarantine)
	now := start.Add(time.Minute)
	if got := d.Denials(now, time.Minute); got != 1 {
		t.Errorf("denials in the last minute: %d, want 1", got)
	}
	if got := d.Denials(now, time.Hour); got != 2 {
		t.Errorf("denials in the last hour: %d, want 2", got)
	}
	// No flood of allowed calls hides them.
	for range 10_000 {
		d.Observe(now, "time_get", zta.Allow)
	}
	if got := d.Denials(now, time.Hour); got != 2 {
		t.Errorf("denials after a flood: %d, want 2", got)
	}
	// Nor does setting the clock back.
	d.Observe(start.Add(-time.Hour), "file_open", zta.Block)
	if got := d.Denials(now, time.Minute); got != 2 {
		t.Errorf("denials after the clock was set back: %d, want 2", got)
	}
	for range 1_000 {
		d.Observe(now, "file_open", zta.Block)
	}
	if got := d.Denials(now, time.Minute); got != 256 {
		t.Errorf("denials after 1,000: %d, want the 256 that are remembered", got)
	}
}

func TestSequence(t *testing.T) {
	d := newDNA()
	if _, ok := d.FirstSeen("file_read"); ok || d.After("net_connect", "file_read") {
		t.Fatal("a new container has a past")
	}
	d.Observe(start, "net_connect", zta.Allow)
	d.Observe(start, "file_read", zta.Allow) // at the same instant
	if d.After("net_connect", "file_read") || !d.After("file_read", "net_connect") {
		t.Error("the order of two calls is lost")
	}
	d.Observe(start.Add(-time.Second), "net_connect", zta.Block) // the clock goes back
	if !d.After("net_connect", "file_read") {
		t.Error("a later call does not count as later")
	}
	if first, ok := d.FirstSeen("net_connect"); !ok || !first.Equal(start) {
		t.Errorf("first seen at %v, %v", first, ok)
	}
	if d.Calls() != 3 {
		t.Errorf("%d calls, want 3", d.Calls())
	}
}

// A guest that makes up names can neither grow its history without bound nor
// push real syscalls out of it.
func TestMadeUpNames(t *testing.T) {
	d := newDNA()
	long := strings.Repeat("x", 1<<16)
	for i := range 5_000 {
		d.Observe(start, fmt.Sprintf("made_up_%d_%s", i, long), zta.Block)
	}
	d.Observe(start, "file_read", zta.Allow)
	if _, ok := d.FirstSeen("file_read"); !ok {
		t.Error("a real syscall has no place left")
	}
	for i := range 5_000 {
		d.Observe(start, fmt.Sprintf("again_%d", i), zta.Block)
	}
	if _, ok := d.FirstSeen("file_read"); !ok {
		t.Error("a real syscall was pushed out")
	}
	h := d.Snapshot(start)
	var calls uint64
	for _, tally := range h.Syscalls {
		calls += tally.Calls
	}
	if calls != 10_001 || h.Calls != 10_001 {
		t.Errorf("%d calls in the tallies, %d in all, want 10001", calls, h.Calls)
	}
	if len(h.Syscalls) > 192 || len(h.Trace) > 256 {
		t.Errorf("%d names, %d entries", len(h.Syscalls), len(h.Trace))
	}
}

// The documented bound: 64 KiB each, whatever the guest does.
func TestSize(t *testing.T) {
	const n = 64
	var before, after runtime.MemStats
	dnas := make([]*zta.ExecutionDNA, n)
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range dnas {
		d := newDNA()
		for j := range 3_000 {
			d.Observe(start, fmt.Sprintf("%04d_%s", j, strings.Repeat("x", 100)), zta.Block)
		}
		text, err := json.Marshal(d.Snapshot(start))
		if err != nil {
			t.Fatal(err)
		}
		var h zta.History
		if err := json.Unmarshal(text, &h); err != nil {
			t.Fatal(err)
		}
		if dnas[i] = d; i%2 == 1 {
			dnas[i] = newDNA()
			dnas[i].Restore(start, h)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if each := (after.HeapAlloc - before.HeapAlloc) / n; each > 64<<10 {
		t.Errorf("a history takes %d bytes", each)
	}
	runtime.KeepAlive(dnas)
}

func TestHistoryRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d, now := newDNA(), start
		for range rapid.IntRange(0, 400).Draw(t, "calls") {
			now = now.Add(time.Duration(rapid.IntRange(0, 5_000).Draw(t, "ms")) * time.Millisecond)
			d.Observe(now, rapid.SampledFrom(syscallNames).Draw(t, "syscall"), zta.Outcome(rapid.IntRange(0, 3).Draw(t, "outcome")))
			if rapid.IntRange(0, 9).Draw(t, "flag?") == 0 {
				d.Flag(now, zta.RedFlag(rapid.IntRange(0, 5).Draw(t, "flag")))
			}
		}
		text, err := json.Marshal(d.Snapshot(now))
		if err != nil {
			t.Fatal(err)
		}
		var h zta.History
		if err := json.Unmarshal(text, &h); err != nil {
			t.Fatal(err)
		}
		later := now.Add(24 * time.Hour)
		restored := zta.NewExecutionDNA("c-2", d.Identity())
		restored.Restore(later, h)
		if got, want := restored.Snapshot(later), d.Snapshot(now); !reflect.DeepEqual(got, want) {
			t.Fatalf("restored %+v\nwant %+v", got, want)
		}
		for _, a := range syscallNames {
			for _, b := range syscallNames {
				if restored.After(a, b) != d.After(a, b) {
					t.Fatalf("the order of %s and %s is lost", a, b)
				}
			}
		}
	})
}

func TestRestoreNothing(t *testing.T) {
	d := newDNA()
	d.Restore(start, zta.History{})
	if got := d.Integrity(start); got != 0 {
		t.Errorf("an empty history gives integrity %v", got)
	}
}

func TestNoHistory(t *testing.T) {
	var d *zta.ExecutionDNA
	_, seen := d.FirstSeen("file_open")
	if d.Integrity(start) != 100 || d.Calls() != 0 || d.Denials(start, time.Hour) != 0 || seen || d.After("a", "b") ||
		d.ContainerID() != "" || d.Identity().ID != "" || d.Snapshot(start).Integrity != 100 {
		t.Error("a nil DNA has a past")
	}
}

func TestConcurrentDNA(t *testing.T) {
	d := newDNA()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 500 {
				d.Observe(start, fmt.Sprintf("call_%d", (i*j)%300), zta.Outcome(j%4))
				d.Flag(start, zta.Denied)
				d.Snapshot(start)
				d.Denials(start, time.Minute)
			}
		})
	}
	wg.Wait()
	if d.Calls() != 4_000 {
		t.Errorf("%d calls, want 4000", d.Calls())
	}
}
