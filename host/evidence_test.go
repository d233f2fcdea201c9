package host_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/zta"
)

// faultyLog is a log that takes no record from a point on.
type faultyLog struct {
	abi.Log
	mu   sync.Mutex
	left int // records that are still taken; below 0 for all
}

var errFull = errors.New("no space left on device")

func (l *faultyLog) Append(r *audit.Record) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left == 0 {
		return 0, errFull
	}
	if l.left > 0 {
		l.left--
	}
	return l.Log.Append(r)
}

func (l *faultyLog) take(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left = n
}

func (l *faultyLog) full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.left == 0
}

// openFaulty is a log on disk, to be wrapped.
func openFaulty(t *testing.T) (*faultyLog, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "audit")
	log, err := audit.Open(audit.Options{Dir: dir, Name: "forgeone/test", AllowGenerate: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	return &faultyLog{Log: log, left: -1}, dir
}

// TestFullLogAtEveryRecord lets the log fill up at each record of a plugin's
// life in turn. The verb that needed it is refused with the reason and leaves
// the plugin as it was or failed, and once there is space again life goes on.
func TestFullLogAtEveryRecord(t *testing.T) {
	log, dir := openFaulty(t)
	k := newKernel(t, host.WithLog(log))
	path := filepath.Join(k.dir, "add.wasm")
	if err := os.WriteFile(path, addModule, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := k.config("p", path)
	var id uuid.UUID
	call := func() error {
		_, err := k.Call(ctx, id, "add", []byte("1 2"))
		return err
	}
	life := []struct {
		name        string
		do          func() error
		from, after host.PluginPhase // "" for none
	}{
		{"load", func() (err error) { id, err = k.LoadPlugin(ctx, cfg); return err }, "", host.PluginStopped},
		{"start", func() error { return k.StartPlugin(ctx, id) }, host.PluginStopped, host.PluginActive},
		{"call", call, host.PluginActive, host.PluginActive},
		{"pause", func() error { return k.PausePlugin(ctx, id) }, host.PluginActive, host.PluginPaused},
		{"resume", func() error { return k.ResumePlugin(ctx, id) }, host.PluginPaused, host.PluginActive},
		{"reload", func() error { return k.ReloadPlugin(ctx, id, &cfg) }, host.PluginActive, host.PluginActive},
		{"stop", func() error { return k.StopPlugin(ctx, id) }, host.PluginActive, host.PluginStopped},
		{"unload", func() error { return k.UnloadPlugin(ctx, id) }, host.PluginStopped, ""},
	}
	what := func() (host.PluginPhase, string) {
		p, err := k.Plugin(id)
		if err != nil {
			return "", ""
		}
		return p.Status.Phase, p.Container
	}
	for n, full := 0, true; full; n++ {
		id, full = uuid.Nil, false
		log.take(n)
		for _, step := range life {
			_, container := what()
			err := step.do()
			got, now := what()
			if log.full() {
				full = true
				log.take(-1)
			} else if err != nil {
				t.Fatalf("record %d: %s: %v", n, step.name, err)
			}
			if err == nil {
				if got != step.after {
					t.Fatalf("record %d: after %s it is %q, want %q", n, step.name, got, step.after)
				}
				continue
			}
			if !strings.Contains(err.Error(), errFull.Error()) {
				t.Errorf("record %d: %s: %v, want the reason", n, step.name, err)
			}
			// What ends something cannot be undone, and says that it is done; what
			// begins something has not.
			if strings.Contains(err.Error(), "done, but that cannot be recorded") || step.name == "stop" && got == host.PluginStopped {
				if got != step.after || step.name != "stop" && step.name != "unload" {
					t.Fatalf("record %d: %s: %v, and it is %q", n, step.name, err, got)
				}
				continue
			}
			if got != step.from && (step.name != "start" || got != host.PluginFailed) {
				t.Fatalf("record %d: %s left it %q: %v", n, step.name, got, err)
			}
			if now != container {
				t.Errorf("record %d: %s failed, and runs %q, not %q", n, step.name, now, container)
			}
			if err := step.do(); err != nil {
				t.Fatalf("record %d: %s, with space again: %v", n, step.name, err)
			}
		}
		if n > 500 {
			t.Fatal("no end of records")
		}
	}
	rep, err := audit.Verify(ctx, audit.VerifyOptions{Dir: dir})
	if err != nil || rep.FirstBad != nil {
		t.Errorf("the log does not verify: %+v, %v", rep, err)
	}
}

// TestFullLogIsNoFault: a guest that cannot bear what it is refused while the
// log is full is not blamed for it, or a full disk would quarantine everyone.
func TestFullLogIsNoFault(t *testing.T) {
	log, _ := openFaulty(t)
	k := newKernel(t, host.WithLog(log))
	id := k.start(k.config("p", artifacts.summariseWasm))
	for n := range 12 {
		log.take(n)
		_, err := k.Call(ctx, id, "summarise", []byte("/data/report.txt"))
		if full := log.full(); full && err == nil {
			t.Errorf("a call was served with %d records", n)
		}
		log.take(-1)
		if _, err := k.Call(ctx, id, "summarise", []byte("/data/report.txt")); err != nil {
			t.Errorf("with space again: %v", err)
		}
	}
	if p, _ := k.Plugin(id); p.Integrity < zta.FullIntegrity {
		t.Errorf("integrity %v", p.Integrity)
	}
}

// TestQuarantineWithoutTheLog: isolation does not wait for a log that is full,
// and a case that could not be recorded is still one.
func TestQuarantineWithoutTheLog(t *testing.T) {
	log, _ := openFaulty(t)
	k := newKernel(t, host.WithLog(log))
	id := k.start(k.config("rogue", artifacts.rogueWasm))
	log.take(1) // the call, and not what comes of it
	_, err := k.Call(ctx, id, "escape", nil)
	log.take(-1)
	if err == nil {
		t.Error("escaped")
	}
	// What could not be looked at is refused; whether it was a violation is
	// known once it can.
	if _, err = k.Call(ctx, id, "escape", nil); err == nil {
		t.Error("escaped")
	}
	k.expect(id, host.PluginQuarantined)
}

// TestVerbsAreOnRecordInOrder: an intent before anything is done, what it led
// to, and the outcome that names the intent.
func TestVerbsAreOnRecordInOrder(t *testing.T) {
	log, dir := openFaulty(t)
	k := newKernel(t, host.WithLog(log))
	cfg := k.config("p", artifacts.summariseWasm)
	id := k.start(cfg)
	bad := cfg
	bad.Mounts = []host.Mount{{Guest: "/data", Host: filepath.Join(k.dir, "none")}}
	err := k.ReloadPlugin(ctx, id, &bad)
	if err == nil || strings.Count(err.Error(), "/data") != 1 {
		t.Errorf("reload: %v", err)
	}
	if err := errors.Join(k.PausePlugin(ctx, id), k.ResumePlugin(ctx, id), k.StopPlugin(ctx, id), k.UnloadPlugin(ctx, id)); err != nil {
		t.Fatal(err)
	}
	var got []string
	intents := map[uint64]string{}
	for r, err := range audit.Records(dir, audit.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		switch r.Kind {
		case audit.KindCapability:
			got = append(got, "capability")
		case audit.KindCall:
			if r.Phase == audit.PhaseIntent {
				got = append(got, r.Function)
			}
		case audit.KindPlugin:
			verb := r.Details["verb"]
			switch r.Phase {
			case audit.PhaseIntent:
				intents[audit.Closes(r.Seq)] = verb
				verb += "?"
			case audit.PhaseOutcome:
				if intents[r.Intent] != verb {
					t.Errorf("the outcome of %s belongs to %q", verb, intents[r.Intent])
				}
				delete(intents, r.Intent)
				verb += " " + r.Outcome
			}
			got = append(got, verb)
		}
	}
	want := []string{
		"load",
		"start?", "capability", "forge_init", "forge_start", "start ok",
		"reload?", "reload failed",
		"pause?", "forge_pause", "pause ok",
		"resume?", "forge_resume", "resume ok",
		"stop?", "forge_stop", "stop ok",
		"unload?", "unload ok",
	}
	if !slices.Equal(got, want) || len(intents) != 0 {
		t.Errorf("on record:\n%q\nwant\n%q\nwithout an outcome: %v", got, want, intents)
	}
}
