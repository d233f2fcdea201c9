package meter

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"forgeone.dev/forgeone/engines"
)

var (
	_ engines.Snapshotter = (*compiled)(nil)
	_ engines.Snapshot    = (*snapshot)(nil)
)

// snapshot is the state of an instance: its memory and the numbers in its
// globals. All else is as it is after instantiation.
type snapshot struct {
	compiled *compiled
	image    *image
	globals  []uint64 // of the layout

	mu     sync.RWMutex // held while the image is used
	closed bool
}

// state is what of an instance is captured.
type state struct {
	memory  *memory // nil if there is none
	globals []engines.Global
	changed engines.Global // nil if nothing else can change
}

// stateOf finds the state of an inner instance.
func (l *layout) stateOf(inner engines.Instance) *state {
	s := &state{globals: make([]engines.Global, len(l.globals))}
	if l.memory != nil {
		s.memory = l.memoryOf(inner)
	}
	for n, name := range l.globals {
		s.globals[n] = inner.Global(name)
	}
	if l.changes {
		s.changed = inner.Global(exportChanged)
	}
	return s
}

// initialize writes the active data segments to the memory of an inner
// instance.
func (c *compiled) initialize(inner engines.Instance) error {
	if c.layout == nil {
		return nil
	}
	if c.initial != nil {
		if err := c.initial.lay(c.layout.memoryOf(inner)); err != nil {
			return fmt.Errorf("%s: data segments: %w", c.engine.Info().Name, err)
		}
	}
	if c.layout.beyond {
		return &engines.Trap{Class: engines.TrapMemoryBounds, Detail: "an active data segment is out of bounds"}
	}
	return nil
}

// Snapshot implements [engines.Snapshotter].
func (c *compiled) Snapshot(inst engines.Instance) (engines.Snapshot, error) {
	i, ok := inst.(*instance)
	if !ok || i.compiled != c {
		return nil, &engines.SnapshotError{Reason: "it is not of this module"}
	}
	if reason := i.refusal(); reason != "" {
		return nil, &engines.SnapshotError{Reason: reason}
	}
	st := i.state
	if st == nil {
		st = c.layout.stateOf(i.Instance)
	}
	if st.changed != nil && st.changed.Get() != 0 {
		return nil, &engines.SnapshotError{Reason: "it has changed a table, dropped a segment, or assigned to a global that holds no number; make a new instance for each use instead"}
	}
	s := &snapshot{compiled: c, image: &image{}}
	for _, g := range st.globals {
		s.globals = append(s.globals, g.Get())
	}
	if st.memory != nil {
		im, err := captureImage(st.memory, c.mapped)
		if err != nil {
			return nil, &engines.SnapshotError{Reason: err.Error()}
		}
		s.image = im
	}
	return s, nil
}

// refusal says why the host knows that an instance cannot be captured, "" if it
// knows of nothing.
func (i *instance) refusal() string {
	switch l := i.compiled.layout; {
	case l == nil:
		return "the module was not compiled for that; compile it with CompileOptions.Snapshots"
	case l.refusal != "":
		return l.refusal
	case i.closed.Load():
		return "it is closed"
	case i.calls > 0:
		return "a call of it is under way; capture it when that has returned"
	case i.linked.Load():
		return "it is linked to another instance, which shares what it has; link functions of the host alone"
	case i.broken:
		return "a call of it has ended in the middle, by a trap or an error of the host; capture an instance whose calls have all returned"
	case i.lent:
		return "the host was given a global of it that holds no number"
	}
	return ""
}

// Size implements [engines.Snapshot].
func (s *snapshot) Size() uint64 { return s.image.size }

// Close implements [engines.Snapshot].
func (s *snapshot) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		s.image.close()
	}
	return nil
}

// Instantiate implements [engines.Snapshot].
func (s *snapshot) Instantiate(ctx context.Context, imports engines.Imports) (engines.Instance, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, engines.ErrClosed
	}
	i, err := s.compiled.link(ctx, imports)
	if err != nil {
		return nil, err
	}
	i.state, i.origin = s.compiled.layout.stateOf(i.Instance), s
	if s.image.size > 0 {
		err = s.image.lay(i.state.memory)
	}
	if err == nil {
		err = errors.Join(s.setGlobals(i.state), i.count())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: an instance from a snapshot: %w", s.compiled.engine.Info().Name, err), i.Close())
	}
	return i, nil
}

// setGlobals assigns to the globals that differ.
func (s *snapshot) setGlobals(st *state) error {
	for n, g := range st.globals {
		if g.Get() != s.globals[n] {
			if err := g.Set(s.globals[n]); err != nil {
				return err
			}
		}
	}
	return nil
}

// Restore implements [engines.Snapshot].
func (s *snapshot) Restore(inst engines.Instance) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	i, ok := inst.(*instance)
	if !ok || s.closed || i.origin != s || i.closed.Load() || i.linked.Load() || i.calls > 0 || i.lent {
		return false
	}
	st := i.state
	if st.changed != nil && st.changed.Get() != 0 {
		return false
	}
	if st.memory != nil && (st.memory.Size() != s.image.size || s.image.size > 0 && !s.image.relay(st.memory)) {
		return false
	}
	if s.setGlobals(st) != nil {
		return false
	}
	i.used, i.broken = 0, false
	return true
}
