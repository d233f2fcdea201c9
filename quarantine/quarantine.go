// Package quarantine keeps the cases of isolated artifacts: why each was
// opened, what is held, and who released it. Cases survive a restart, and hang
// on the artifact, so that a plugin cannot shed one by another name, and all
// that run the artifact are isolated together.
//
// The isolation itself is the container's (see [Container]); it never waits
// for the audit log.
package quarantine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/state"
	"forgeone.dev/forgeone/zta"
)

// Container is one running copy of what is isolated.
type Container interface {
	// Hold refuses what is new.
	Hold(reason string)
	// Quarantine refuses what is new for good, cancels what is in flight and
	// closes what is open; Drain ends what has not ended by that, and waits.
	Quarantine(reason string)
	Drain(ctx context.Context) error
}

// Log is where cases go on record.
type Log interface {
	Append(*audit.Record) (seq uint64, err error)
	// Sync waits until the record is on disk.
	Sync(ctx context.Context, seq uint64) error
}

// State of a case.
type State string

// States of a case.
const (
	Open     State = "open"
	Released State = "released"
)

// Case is what is kept of an isolated container.
type Case struct {
	ID    string `json:"id"` // "Q-1", "Q-2", … in order of opening
	State State  `json:"state"`
	// Outcome is zta.Freeze's or zta.Quarantine's name: "frozen", "quarantined".
	Outcome string `json:"outcome"`

	Plugin    string `json:"plugin"`
	Container string `json:"container"`
	Identity  string `json:"identity"`
	Artifact  string `json:"artifact"`            // SHA-256 of the artifact, hexadecimal
	Publisher string `json:"publisher,omitempty"` // key id of its signature

	Rule   string  `json:"rule"`
	Reason string  `json:"reason"`
	Policy string  `json:"policy"` // digest of the policy graph that decided
	Score  float64 `json:"score"`

	Opened time.Time `json:"opened"`
	// Undrained says what was still in flight when the isolation was reported.
	Undrained string      `json:"undrained,omitempty"`
	History   zta.History `json:"history"` // the container's DNA when the case was opened

	ReleasedAt     time.Time `json:"released_at,omitzero"`
	ReleasedBy     string    `json:"released_by,omitempty"`
	ReleasedReason string    `json:"released_reason,omitempty"`
}

// Quarantines reports whether the case is more than a freeze.
func (k *Case) Quarantines() bool { return k.Outcome == zta.Quarantine.String() }

// Errors.
var (
	ErrNotFound = errors.New("no such case")
	ErrReleased = errors.New("the case is released already")
)

const bucket = "quarantine"

// Cases is the register of cases. It is safe for concurrent use.
type Cases struct {
	log   Log
	db    *state.DB // nil keeps them in memory only
	clock func() time.Time

	keeping sync.Mutex // held while a case goes on record and into the store, so that both have the same order

	mu   sync.Mutex // guards what follows; never held across a record or a store
	byID map[string]Case
	next int
}

// Load opens the register with the cases that db holds; a nil db keeps them in
// memory.
func Load(db *state.DB, log Log, clock func() time.Time) (*Cases, error) {
	c := &Cases{log: log, db: db, clock: clock, byID: map[string]Case{}}
	if db == nil {
		return c, nil
	}
	entries, err := db.Bucket(bucket).List("", 0)
	if err != nil {
		return nil, fmt.Errorf("quarantine: read cases: %w", err)
	}
	for _, e := range entries {
		var k Case
		if err := json.Unmarshal(e.Value, &k); err != nil {
			return nil, fmt.Errorf("quarantine: case %s is damaged: %w; move state.db aside to start without cases", e.Key, err)
		}
		c.byID[k.ID] = k
		c.next = max(c.next, number(k.ID))
	}
	return c, nil
}

// number is the N of "Q-N".
func number(id string) int {
	var n int
	_, _ = fmt.Sscanf(id, "Q-%d", &n)
	return n
}

// Open opens a case, which counts from that moment on: the artifact is [Cases.Held].
// If one that isolates as strongly is open already, that one is returned, and
// opened is false.
func (c *Cases) Open(k Case) (_ Case, opened bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if held, ok := c.held(k.Artifact); ok && (held.Quarantines() || !k.Quarantines()) {
		return held, false
	}
	c.next++
	k.ID, k.State, k.Opened = fmt.Sprintf("Q-%d", c.next), Open, c.clock().UTC()
	c.byID[k.ID] = k
	return k, true
}

// Isolate carries out a case that was opened: it holds or quarantines the
// containers, keeps the case, and waits for their last effects until ctx ends;
// what is then still in flight is said in the case. The case counts even if it
// cannot be stored or recorded: the error says so.
func (c *Cases) Isolate(ctx context.Context, k Case, containers ...Container) error {
	for _, container := range containers {
		if k.Quarantines() {
			container.Quarantine("case " + k.ID + ": " + k.Reason)
		} else {
			container.Hold("frozen for review by case " + k.ID + ": " + k.Reason)
		}
	}
	err := c.keep(k.ID, "opened", func(*Case) string { return k.Reason })
	if !k.Quarantines() {
		return err
	}
	var undrained []error
	for _, container := range containers {
		undrained = append(undrained, container.Drain(ctx))
	}
	if left := errors.Join(undrained...); left != nil {
		err = errors.Join(err, c.keep(k.ID, "undrained", func(k *Case) string {
			k.Undrained = left.Error()
			return k.Undrained
		}))
	}
	return err
}

// keep records and stores a case as it is now, after a change that says why.
func (c *Cases) keep(id, verb string, change func(*Case) (reason string)) error {
	c.keeping.Lock()
	defer c.keeping.Unlock()
	c.mu.Lock()
	k := c.byID[id]
	reason := change(&k)
	c.byID[id] = k
	c.mu.Unlock()
	return errors.Join(c.record(k, verb, reason), c.store(k))
}

// Held is the open case of an artifact, the quarantine if there is a freeze as
// well. A quarantined artifact is not to be loaded or started before it is
// released.
func (c *Cases) Held(artifact string) (Case, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held(artifact)
}

func (c *Cases) held(artifact string) (held Case, ok bool) {
	for _, k := range c.byID {
		if k.Artifact == artifact && k.State == Open && (!ok || k.Quarantines()) {
			held, ok = k, true
		}
	}
	return held, ok
}

// List is every case, in order of opening.
func (c *Cases) List() []Case {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Case, 0, len(c.byID))
	for _, k := range c.byID {
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b Case) int { return number(a.ID) - number(b.ID) })
	return out
}

// Get is one case. Errors: [ErrNotFound].
func (c *Cases) Get(id string) (Case, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.byID[id]
	if !ok {
		return Case{}, fmt.Errorf("quarantine case %q: %w", id, ErrNotFound)
	}
	return k, nil
}

// Release closes a case: a reason and who gives it are required. The release is
// on disk, in the log, before it counts. Errors: [ErrNotFound], [ErrReleased],
// or why it could not be recorded or stored; the case is then still open.
func (c *Cases) Release(ctx context.Context, id, by, reason string) (Case, error) {
	if strings.TrimSpace(reason) == "" || strings.TrimSpace(by) == "" {
		return Case{}, errors.New("quarantine: a release needs a reason and who gives it")
	}
	c.keeping.Lock()
	defer c.keeping.Unlock()
	k, err := c.Get(id)
	if err != nil {
		return Case{}, err
	}
	if k.State != Open {
		return Case{}, fmt.Errorf("quarantine case %s: %w", id, ErrReleased)
	}
	k.State, k.ReleasedAt, k.ReleasedBy, k.ReleasedReason = Released, c.clock().UTC(), by, reason
	seq, err := c.log.Append(k.record("released", reason))
	if err != nil {
		return Case{}, fmt.Errorf("quarantine case %s: the release is not on record: %w", id, err)
	}
	if err = c.log.Sync(ctx, seq); err == nil {
		err = c.store(k)
	}
	if err != nil {
		k, _ = c.Get(id)
		return Case{}, errors.Join(fmt.Errorf("quarantine case %s stays open: %w", id, err), c.record(k, "release failed", err.Error()))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byID[id] = k
	return k, nil
}

func (c *Cases) record(k Case, verb, reason string) error {
	if _, err := c.log.Append(k.record(verb, reason)); err != nil {
		return fmt.Errorf("quarantine case %s: %s is not on record: %w", k.ID, verb, err)
	}
	return nil
}

func (k *Case) record(verb, reason string) *audit.Record {
	details := map[string]string{"case": k.ID, "verb": verb, "outcome": k.Outcome, "artifact": k.Artifact}
	if k.ReleasedBy != "" {
		details["by"] = k.ReleasedBy
	}
	return &audit.Record{
		Kind: audit.KindQuarantine, Subject: k.Identity, Plugin: k.Plugin, Container: k.Container,
		Rule: k.Rule, Reason: audit.Clip(reason), Policy: k.Policy, Score: k.Score, Details: details,
	}
}

func (c *Cases) store(k Case) error {
	if c.db == nil {
		return nil
	}
	b, err := json.Marshal(k)
	if err == nil {
		err = c.db.Bucket(bucket).Put(k.ID, b)
	}
	if err != nil {
		return fmt.Errorf("quarantine case %s is not stored: %w", k.ID, err)
	}
	return nil
}
