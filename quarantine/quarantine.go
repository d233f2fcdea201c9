// Package quarantine keeps the cases of isolated containers: why each was
// opened, what is held, and who released it. Cases survive a restart, and hang
// on the artifact, so that a plugin cannot shed one by another name.
//
// The isolation itself is the container's (see [Container]); opening a case
// never waits for the audit log.
package quarantine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync"
	"time"

	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/state"
	"forgeone.dev/forgeone/zta"
)

// Container is what is isolated: abi.Container is one.
type Container interface {
	ID() string
	// Hold refuses what is new; Release lifts that.
	Hold(reason string)
	Release()
	// Quarantine refuses what is new for good, cancels what is in flight and
	// closes what is open; Drain waits for the last effect.
	Quarantine(reason string)
	Drain(ctx context.Context) error
}

// Log is where cases go on record.
type Log interface {
	Append(*audit.Record) (seq uint64, err error)
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

	mu   sync.Mutex
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

// Isolate opens a case for a container that was held or quarantined, and waits
// for its last effect until ctx ends; what is then still in flight is said in
// the case. The case counts from the moment Isolate is called, even if it
// cannot be stored or recorded: the error says so.
func (c *Cases) Isolate(ctx context.Context, k Case, container Container) (Case, error) {
	c.mu.Lock()
	c.next++
	k.ID, k.State, k.Opened, k.Container = fmt.Sprintf("Q-%d", c.next), Open, c.clock().UTC(), container.ID()
	c.byID[k.ID] = k
	c.mu.Unlock()

	if k.Outcome == zta.Quarantine.String() {
		if err := container.Drain(ctx); err != nil {
			k.Undrained = err.Error()
		}
	}
	return k, c.keep(k, "opened", k.Reason)
}

// Active is the open quarantine of an artifact, if there is one: it is not to
// be loaded or started again before it is released.
func (c *Cases) Active(artifact string) (Case, bool) {
	return c.find(func(k Case) bool {
		return k.Artifact == artifact && k.State == Open && k.Outcome == zta.Quarantine.String()
	})
}

// Frozen is the open freeze of an artifact, if there is one.
func (c *Cases) Frozen(artifact string) (Case, bool) {
	return c.find(func(k Case) bool {
		return k.Artifact == artifact && k.State == Open && k.Outcome == zta.Freeze.String()
	})
}

func (c *Cases) find(match func(Case) bool) (Case, bool) {
	for _, k := range c.List() {
		if match(k) {
			return k, true
		}
	}
	return Case{}, false
}

// List is every case, in order of opening.
func (c *Cases) List() []Case {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Case, 0, len(c.byID))
	for _, k := range c.byID {
		out = append(out, k)
	}
	sort.Slice(out, func(i, j int) bool { return number(out[i].ID) < number(out[j].ID) })
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
// on record before it counts. Errors: [ErrNotFound], [ErrReleased], or why it
// could not be recorded or stored; the case is then still open.
func (c *Cases) Release(id, by, reason string) (Case, error) {
	if strings.TrimSpace(reason) == "" || strings.TrimSpace(by) == "" {
		return Case{}, errors.New("quarantine: a release needs a reason and who gives it")
	}
	k, err := c.Get(id)
	if err != nil {
		return Case{}, err
	}
	if k.State != Open {
		return Case{}, fmt.Errorf("quarantine case %s: %w", id, ErrReleased)
	}
	k.State, k.ReleasedAt, k.ReleasedBy, k.ReleasedReason = Released, c.clock().UTC(), by, reason
	if err := c.keep(k, "released", reason); err != nil {
		return Case{}, err
	}
	return k, nil
}

// keep records and stores a case. An opening counts whatever fails; a release
// counts only if nothing does.
func (c *Cases) keep(k Case, verb, reason string) error {
	opening := k.State == Open
	details := map[string]string{"case": k.ID, "verb": verb, "outcome": k.Outcome, "artifact": k.Artifact}
	if k.Undrained != "" {
		details["undrained"] = k.Undrained
	}
	if k.ReleasedBy != "" {
		details["by"] = k.ReleasedBy
	}
	_, logErr := c.log.Append(&audit.Record{
		Kind: audit.KindQuarantine, Subject: k.Identity, Plugin: k.Plugin, Container: k.Container,
		Rule: k.Rule, Reason: reason, Policy: k.Policy, Score: k.Score, Details: details,
	})
	if logErr != nil && !opening {
		return fmt.Errorf("quarantine case %s: the release is not on record: %w", k.ID, logErr)
	}
	var dbErr error
	if c.db != nil {
		b, err := json.Marshal(k)
		if err == nil {
			err = c.db.Bucket(bucket).Put(k.ID, b)
		}
		if err != nil {
			dbErr = fmt.Errorf("quarantine case %s is not stored: %w", k.ID, err)
		}
	}
	if dbErr != nil && !opening {
		return dbErr
	}
	c.mu.Lock()
	c.byID[k.ID] = k
	c.mu.Unlock()
	return errors.Join(logErr, dbErr)
}
