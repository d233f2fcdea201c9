package worker

import (
	"context"
	"sync/atomic"
)

// kin are instances that are linked, by however many others. An engine may have
// one thread at a time run code of theirs: what a host function calls of the kin
// of its caller goes over the connection that waits for the host function, and
// so is run by the thread that made the host call.
type kin struct {
	into   *kin // that these were joined to, nil if none
	inHost int  // host calls under way
}

// root is the kin that k is part of. engine.mu is held.
func (k *kin) root() *kin {
	for k.into != nil {
		k = k.into
	}
	return k
}

// join makes i kin of those that lend to it, and them of each other.
func (e *engine) join(i *instance, lenders map[string]*instance) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range lenders {
		if l.kin == nil {
			l.kin = new(kin)
		}
		switch root := l.kin.root(); {
		case i.kin == nil:
			i.kin = root
		case i.kin != root:
			root.into = i.kin
			i.kin.inHost += root.inHost
		}
	}
}

// hostScope is a host call of an instance that has kin, in the context of the
// host function.
type hostScope struct {
	wire  *wire
	kin   *kin
	outer *hostScope
	over  atomic.Bool
}

type hostScopeKey struct{}

// enterHost is the context for a host call over t, and must be followed by end.
// It is ctx unless i has kin.
func (i *instance) enterHost(ctx context.Context, t *wire) (_ context.Context, end func()) {
	if i == nil || !i.direct.Load() {
		return ctx, func() {}
	}
	e := t.worker.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	if i.kin == nil {
		return ctx, func() {}
	}
	outer, _ := ctx.Value(hostScopeKey{}).(*hostScope)
	s := &hostScope{wire: t, kin: i.kin, outer: outer}
	s.kin.root().inHost++
	return context.WithValue(ctx, hostScopeKey{}, s), func() {
		s.over.Store(true)
		e.mu.Lock()
		defer e.mu.Unlock()
		s.kin.root().inHost--
	}
}

// route is the connection that runs guest code of i for a call with that
// context: its own, or the one whose host call the call is made in.
func (i *instance) route(ctx context.Context) (*wire, error) {
	if !i.direct.Load() {
		return i.wire, nil
	}
	e := i.wire.worker.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	if i.kin == nil {
		return i.wire, nil
	}
	root := i.kin.root()
	for s, _ := ctx.Value(hostScopeKey{}).(*hostScope); s != nil; s = s.outer {
		if s.kin.root() == root && !s.over.Load() {
			return s.wire, nil
		}
	}
	if root.inHost > 0 && i.wire.depth == 0 {
		return nil, &ReentryError{Engine: e.info.Name}
	}
	return i.wire, nil
}
