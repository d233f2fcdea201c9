package zta

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"
)

// Bounds of one [ExecutionDNA], which keep it below 64 KiB whatever a guest
// does.
const (
	maxTrace   = 256 // entries of the trace, and denials remembered by time
	maxTallies = 192 // distinct syscall names
	maxName    = 64  // bytes kept of a syscall name, which a guest may have made up
)

// otherSyscalls is the tally of names beyond [maxTallies].
const otherSyscalls = "(other)"

// recovery is what clean time gives back, in integrity points an hour: one a
// minute without a red flag.
const recovery = 60.0

// RedFlag is a kind of suspicious behaviour. Each costs its weight in
// integrity.
type RedFlag uint8

// Red flags.
const (
	// Denied is a call that capability or policy blocked.
	Denied RedFlag = iota
	// BadArguments is a call whose arguments could not be decoded or are out of
	// bounds.
	BadArguments
	// UnknownSyscall is a call of a name that nobody registered.
	UnknownSyscall
	// LimitExceeded is a call that ran out of fuel, time, memory or output.
	LimitExceeded
	// Trap is a guest that trapped, or a native process that died.
	Trap
	// HandleAbuse is the use of a handle that the container does not hold.
	HandleAbuse
	// FreezeViolated is a violation of a policy that freezes.
	FreezeViolated
	// QuarantineViolated is a violation of a policy that quarantines.
	QuarantineViolated

	numFlags
)

// redFlags are the names and weights. The last two take a clean container just
// below the threshold of what their policies demand, so that [Verdict] agrees
// with the policy.
var redFlags = [numFlags]struct {
	name   string
	weight float64
}{
	Denied:             {"denied", 1},
	BadArguments:       {"bad_arguments", 2},
	UnknownSyscall:     {"unknown_syscall", 5},
	LimitExceeded:      {"limit_exceeded", 5},
	Trap:               {"trap", 5},
	HandleAbuse:        {"handle_abuse", 10},
	FreezeViolated:     {"freeze_violated", FullIntegrity - FreezeBelow + 1},
	QuarantineViolated: {"quarantine_violated", FullIntegrity - QuarantineBelow + 1},
}

// String is the flag's name as it stands in records.
func (f RedFlag) String() string {
	if f < numFlags {
		return redFlags[f].name
	}
	return fmt.Sprintf("redflag(%d)", uint8(f))
}

// Weight is what the flag costs, in integrity points. A flag that does not
// exist costs all there is.
func (f RedFlag) Weight() float64 {
	if f < numFlags {
		return redFlags[f].weight
	}
	return FullIntegrity
}

// ExecutionDNA is a container's history: what it called, what was denied, its
// red flags and its integrity. It is bounded and safe for concurrent use; no
// method blocks. Reading a nil DNA is reading one without history.
//
// Integrity starts at [FullIntegrity]. Each red flag costs its weight, down to
// 0; clean time gives back one point a minute. Time that goes backwards gives
// nothing back.
type ExecutionDNA struct {
	containerID string
	identity    Identity

	mu        sync.Mutex
	integrity float64   // as of settled
	settled   time.Time // zero until the first change, when integrity is full
	calls     uint64
	flags     [numFlags]uint64
	tallies   map[string]*Tally
	trace     ring[Event]
	denials   ring[time.Time] // apart from trace, so that no flood of allowed calls hides them
}

// Event is one decided call in a trace.
type Event struct {
	Syscall string    `json:"syscall"`
	Outcome Outcome   `json:"outcome"`
	Time    time.Time `json:"time"`
}

// Tally sums up the calls of one syscall.
type Tally struct {
	Calls     uint64    `json:"calls"`
	Denials   uint64    `json:"denials,omitempty"` // calls that were not allowed
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
	FirstCall uint64    `json:"first_call"` // position among all calls, from 1
	LastCall  uint64    `json:"last_call"`
}

// History is an [ExecutionDNA] as a value, to be kept across restarts and
// renames. Restoring the zero History leaves no integrity.
type History struct {
	Integrity float64           `json:"integrity"`
	Calls     uint64            `json:"calls"`
	Flags     map[string]uint64 `json:"flags,omitempty"`
	Syscalls  map[string]Tally  `json:"syscalls,omitempty"`
	Trace     []Event           `json:"trace,omitempty"`   // the last calls, oldest first
	Denials   []time.Time       `json:"denials,omitempty"` // when the last denials were, oldest first
}

// NewExecutionDNA is the history of a container that has done nothing yet.
func NewExecutionDNA(containerID string, identity Identity) *ExecutionDNA {
	identity.Groups = slices.Clone(identity.Groups)
	return &ExecutionDNA{
		containerID: containerID,
		identity:    identity,
		integrity:   FullIntegrity,
		tallies:     map[string]*Tally{},
	}
}

// ContainerID is the container whose history this is.
func (d *ExecutionDNA) ContainerID() string {
	if d == nil {
		return ""
	}
	return d.containerID
}

// Identity is that of the container, as it was when the history began.
func (d *ExecutionDNA) Identity() Identity {
	if d == nil {
		return Identity{}
	}
	id := d.identity
	id.Groups = slices.Clone(id.Groups)
	return id
}

// Observe counts one decided call. It does not change integrity: what is
// suspicious about the call is the caller's to [ExecutionDNA.Flag].
func (d *ExecutionDNA) Observe(now time.Time, syscall string, o Outcome) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls++
	name, t := d.tally(syscall, o)
	if t.Calls == 0 {
		t.First, t.FirstCall = now, d.calls
	}
	t.Calls++
	t.Last, t.LastCall = now, d.calls
	if o != Allow {
		t.Denials++
		d.deny(now)
	}
	d.trace.push(Event{Syscall: name, Outcome: o, Time: now})
}

// deny remembers when a denial was. The times are kept in order, so that they
// can be searched: one from before the clock was set back counts as one of now.
func (d *ExecutionDNA) deny(now time.Time) {
	if n := len(d.denials.entries); n > 0 {
		if last := d.denials.at(n - 1); last.After(now) {
			now = last
		}
	}
	d.denials.push(now)
}

// tally finds or makes the tally of a name. A guest can make up names, but only
// registered ones are ever allowed: so a name that was allowed takes the place
// of one that never was, and inventing names cannot hide real ones.
func (d *ExecutionDNA) tally(syscall string, o Outcome) (string, *Tally) {
	name := syscall
	if len(name) > maxName {
		name = name[:maxName]
	}
	if t, ok := d.tallies[name]; ok {
		return name, t
	}
	if len(d.tallies) >= maxTallies-1 && !(o == Allow && d.evict()) {
		name = otherSyscalls
		if t, ok := d.tallies[name]; ok {
			return name, t
		}
	}
	t := new(Tally)
	name = strings.Clone(name) // what it is cut from may be large
	d.tallies[name] = t
	return name, t
}

// evict merges a name that was never allowed into [otherSyscalls].
func (d *ExecutionDNA) evict() bool {
	for name, t := range d.tallies {
		if t.Calls > t.Denials || name == otherSyscalls {
			continue
		}
		delete(d.tallies, name)
		if o, ok := d.tallies[otherSyscalls]; ok {
			o.Calls += t.Calls
			o.Denials += t.Denials
		} else {
			d.tallies[otherSyscalls] = t
		}
		return true
	}
	return false
}

// Flag raises a red flag and returns the integrity that is left, which
// [Verdict] judges.
func (d *ExecutionDNA) Flag(now time.Time, f RedFlag) float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f < numFlags {
		d.flags[f]++
	}
	d.settle(now, d.at(now)-f.Weight())
	return d.integrity
}

// Integrity is the integrity at a time, 0 to [FullIntegrity].
func (d *ExecutionDNA) Integrity(now time.Time) float64 {
	if d == nil {
		return FullIntegrity
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.at(now)
}

// SetIntegrity sets the integrity; a release from quarantine sets
// [ReleasedIntegrity]. What is out of range is clamped, what is no number is 0.
func (d *ExecutionDNA) SetIntegrity(now time.Time, integrity float64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settle(now, integrity)
}

func (d *ExecutionDNA) at(now time.Time) float64 {
	if d.integrity >= FullIntegrity {
		return FullIntegrity
	}
	clean := max(0, now.Sub(d.settled).Hours())
	return min(FullIntegrity, d.integrity+clean*recovery)
}

func (d *ExecutionDNA) settle(now time.Time, integrity float64) {
	if math.IsNaN(integrity) {
		integrity = 0
	}
	d.integrity, d.settled = min(max(integrity, 0), FullIntegrity), now
}

// Calls is how many calls were observed.
func (d *ExecutionDNA) Calls() uint64 {
	if d == nil {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.calls
}

// Denials is how many calls were not allowed in the window that ends now; it
// counts 256 at most.
func (d *ExecutionDNA) Denials(now time.Time, window time.Duration) int {
	if d == nil {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n := len(d.denials.entries)
	return n - sort.Search(n, func(i int) bool { return now.Sub(d.denials.at(i)) < window })
}

// FirstSeen is when the syscall was first called, by its canonical name; a
// denied call counts.
func (d *ExecutionDNA) FirstSeen(syscall string) (first time.Time, ok bool) {
	if d == nil {
		return time.Time{}, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	t, ok := d.tallies[syscall]
	if !ok {
		return time.Time{}, false
	}
	return t.First, true
}

// After reports whether some call of a came after some call of b. It goes by
// the order of the calls, not by the clock.
func (d *ExecutionDNA) After(a, b string) bool {
	if d == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	ta, tb := d.tallies[a], d.tallies[b]
	return ta != nil && tb != nil && ta.LastCall > tb.FirstCall
}

// Snapshot is the history at a time. The value is the caller's own.
func (d *ExecutionDNA) Snapshot(now time.Time) History {
	if d == nil {
		return History{Integrity: FullIntegrity}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	h := History{
		Integrity: d.at(now),
		Calls:     d.calls,
		Trace:     d.trace.slice(),
		Denials:   d.denials.slice(),
	}
	for f, n := range d.flags {
		if n > 0 {
			if h.Flags == nil {
				h.Flags = map[string]uint64{}
			}
			h.Flags[RedFlag(f).String()] = n
		}
	}
	if len(d.tallies) > 0 {
		h.Syscalls = make(map[string]Tally, len(d.tallies))
	}
	for name, t := range d.tallies {
		h.Syscalls[name] = *t
	}
	return h
}

// Restore replaces the history by an earlier one. Time in which the container
// did not exist is not clean time: integrity recovers from now on.
func (d *ExecutionDNA) Restore(now time.Time, h History) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settle(now, h.Integrity)
	d.calls = h.Calls
	for f := range d.flags {
		d.flags[f] = h.Flags[RedFlag(f).String()]
	}
	d.tallies = map[string]*Tally{}
	names := map[string]string{otherSyscalls: otherSyscalls} // so that the trace shares them
	for _, name := range slices.Sorted(maps.Keys(h.Syscalls)) {
		if len(name) <= maxName && len(d.tallies) < maxTallies {
			t := h.Syscalls[name]
			name = strings.Clone(name)
			d.tallies[name], names[name] = &t, name
		}
	}
	d.trace, d.denials = ring[Event]{}, ring[time.Time]{}
	for _, e := range h.Trace {
		name, ok := names[e.Syscall]
		if !ok {
			name = otherSyscalls
		}
		e.Syscall = name
		d.trace.push(e)
	}
	for _, t := range h.Denials {
		d.deny(t)
	}
}

// ring holds the last maxTrace values pushed.
type ring[T any] struct {
	entries []T
	next    int // where the oldest is, once full
}

func (r *ring[T]) push(v T) {
	if len(r.entries) < maxTrace {
		r.entries = append(r.entries, v)
		return
	}
	r.entries[r.next] = v
	r.next = (r.next + 1) % maxTrace
}

// at is the i-th of the values, oldest first.
func (r *ring[T]) at(i int) T {
	return r.entries[(r.next+i)%len(r.entries)]
}

// slice is a copy, oldest first.
func (r *ring[T]) slice() []T {
	return slices.Concat(r.entries[r.next:], r.entries[:r.next])
}
