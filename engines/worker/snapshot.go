package worker

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"

	"forgeone.dev/forgeone/engines"
)

var (
	_ engines.Snapshotter = (*module)(nil)
	_ engines.Snapshot    = (*snapshot)(nil)
)

// snapshot is one in a worker, with which it ends: it keeps no worker from being
// replaced.
type snapshot struct {
	module *module
	worker *worker
	id     uint32
	size   uint64
	closed atomic.Bool
}

// Snapshot implements engines.Snapshotter.
func (m *module) Snapshot(inst engines.Instance) (engines.Snapshot, error) {
	i := ours(inst)
	if i == nil || i.module != m {
		return nil, &engines.SnapshotError{Reason: "it is not of this module"}
	}
	if i.closed.Load() {
		return nil, &engines.SnapshotError{Reason: "it is closed"}
	}
	if err := i.usable(); err != nil {
		return nil, err
	}
	t := i.wire
	s := &snapshot{module: m, worker: t.worker, id: m.engine.newID()}
	t.begin(opSnapshot)
	t.uint32(m.id)
	t.uint32(s.id)
	t.end()
	op, n, err := t.await()
	if err == nil && op == opError {
		err = t.failed(context.Background(), n, nil)
	} else if err == nil {
		s.size, err = t.answeredWord(op, n)
	}
	if err != nil {
		return nil, err
	}
	if s.size > (math.MaxUint32 + 1) {
		return nil, t.worker.lost(violation("a snapshot of %d bytes, more than a memory can have", s.size))
	}
	s.worker.grant(s.size)
	return s, nil
}

// gone is the error of a snapshot that is no more, nil if it is there.
func (s *snapshot) gone() error {
	if s.closed.Load() || s.module.engine.closed() {
		return engines.ErrClosed
	}
	w := s.worker
	w.mu.Lock()
	retired := w.retired
	w.mu.Unlock()
	select {
	case <-w.ended:
		return ended(w.err)
	default:
	}
	if retired {
		return fmt.Errorf("%w: the snapshot's worker is being replaced; take another", engines.ErrClosed)
	}
	return nil
}

// ended is err, as an [engines.ErrClosed] too if it says that the worker ended.
func ended(err error) error {
	if crash, ok := errors.AsType[*CrashError](err); ok {
		return fmt.Errorf("%w: the snapshot ended with its worker; take another: %w", engines.ErrClosed, crash)
	}
	return err
}

// Instantiate implements engines.Snapshot. When the snapshot's worker has ended,
// or takes no more instances because it is being replaced, the error is an
// [engines.ErrClosed]: another snapshot can be taken in the worker after it.
func (s *snapshot) Instantiate(ctx context.Context, imports engines.Imports) (engines.Instance, error) {
	if err := s.gone(); err != nil {
		return nil, err
	}
	inst, err := s.module.instantiate(ctx, imports, s)
	if err != nil {
		return nil, ended(err)
	}
	return inst, nil
}

// Restore implements engines.Snapshot. It is false too when the worker is being
// replaced.
func (s *snapshot) Restore(inst engines.Instance) bool {
	i := ours(inst)
	if i == nil || i.origin != s || i.wire.depth > 0 || s.gone() != nil || i.usable() != nil {
		return false
	}
	t := i.wire
	t.calls++ // what was known of globals and sizes is stale
	t.begin(opRestore)
	t.uint32(s.id)
	t.end()
	op, n, err := t.await()
	switch {
	case err != nil:
		return false
	case n != 0 || op != opDone && op != opFalse:
		_ = t.worker.lost(violation("operation %d of %d bytes, where a restored instance was expected", op, n))
		return false
	}
	i.fuelUsed = 0
	return op == opDone
}

// Size implements engines.Snapshot.
func (s *snapshot) Size() uint64 { return s.size }

// Close implements engines.Snapshot.
func (s *snapshot) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.worker.giveBack(s.size)
	return s.worker.tell(opDropSnapshot, s.id)
}
