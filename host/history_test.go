package host

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/state"
	"forgeone.dev/forgeone/zta"
)

// TestHistoriesAreStoredWhenTheyChange: a history at rest is not written over
// and over, and no change is missed.
func TestHistoriesAreStoredWhenTheyChange(t *testing.T) {
	db, err := state.Open(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	now := time.Unix(1_700_000_000, 0)
	h := histories{db: db, clock: func() time.Time { return now }, dnas: map[string]*zta.ExecutionDNA{}, stored: map[string]mark{}}
	dna, err := h.of("a", zta.Identity{ID: "x"})
	if err != nil {
		t.Fatal(err)
	}
	changes := map[string]func(){
		"call":     func() { dna.Observe(now, "time_get", zta.Allow) },
		"flag":     func() { dna.Flag(now, zta.Trap) },
		"recovery": func() { now = now.Add(time.Minute) },
		"release":  func() { dna.SetIntegrity(now, zta.ReleasedIntegrity) },
	}
	for _, name := range []string{"call", "flag", "recovery", "release"} {
		changes[name]()
		for _, want := range []bool{true, false} {
			if err := db.Bucket(historyBucket).Delete("a/"); err != nil && !errors.Is(err, state.ErrNotFound) {
				t.Fatal(err)
			}
			if err := h.store(); err != nil {
				t.Fatal(err)
			}
			if _, err := db.Bucket(historyBucket).Get("a/"); (err == nil) != want {
				t.Errorf("after a %s: stored %v, want %v", name, err == nil, want)
			}
		}
	}
}

// unsynced is a log whose disk does not take what was appended.
type unsynced struct{ abi.Log }

func (unsynced) Sync(context.Context, uint64) error { return errors.New("input/output error") }

// TestPolicyThatIsNotOnDisk does not come into force, and the log does not end
// with saying that it did.
func TestPolicyThatIsNotOnDisk(t *testing.T) {
	dir := t.TempDir()
	log, err := audit.Open(audit.Options{Dir: dir, Name: "forgeone/test", AllowGenerate: true})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	h, err := NewPluginHost(WithLog(unsynced{log}))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close(context.Background())
	before := h.Gate().GetPolicyGraph()
	if err := h.SetPolicies(context.Background(), zta.Permissive); err == nil {
		t.Error("set")
	}
	if h.Gate().GetPolicyGraph() != before {
		t.Error("in force")
	}
	var last audit.Record
	for r, err := range audit.Records(dir, audit.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Kind == audit.KindPolicy {
			last = r
		}
	}
	if last.Outcome != audit.OutcomeFailed {
		t.Errorf("the log ends with %+v", last)
	}
	if h.Status().Phase != HostReady { // the log takes records again
		t.Errorf("the host is %s", h.Status())
	}
}
