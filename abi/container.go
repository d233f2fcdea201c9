package abi

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
)

// Container is the supervised unit of work that one running plugin is. Every
// effect pins it; isolating it refuses new effects at once, cancels those in
// flight, closes what is open, and waits until the last pin is gone.
//
// A Container is made live and dies once: what runs after that is another one.
type Container struct {
	id  string
	gen uint32

	// pins counts the effects in flight; dead is set in it when the container
	// was isolated or closed.
	pins    atomic.Int64
	drained chan struct{}
	once    sync.Once

	hold atomic.Pointer[DeniedError] // set while calls are held or once dead

	mu      sync.Mutex // guards what follows, never held across an effect
	cancels map[uint64]context.CancelCauseFunc
	nextCtx uint64
	handles map[uint32]open
	nextH   uint32
}

const dead = int64(1) << 62

// NewContainer makes a live container. id must be unique; the host uses a UUID.
func NewContainer(id string) *Container {
	var b [4]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails since Go 1.24
	return &Container{
		id: id, gen: binary.LittleEndian.Uint32(b[:]) | 1,
		drained: make(chan struct{}),
		cancels: map[uint64]context.CancelCauseFunc{},
		handles: map[uint32]open{},
	}
}

// ID is the container id.
func (c *Container) ID() string { return c.id }

// Hold refuses new calls and syscalls with the reason until [Container.Release];
// what is in flight goes on. It does nothing to a dead container.
func (c *Container) Hold(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.Dead() {
		c.hold.Store(&DeniedError{Status: Blocked, Reason: reason})
	}
}

// Release lifts a hold. It does nothing to a dead container.
func (c *Container) Release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.Dead() {
		c.hold.Store(nil)
	}
}

// Live is nil, or why the container takes no calls.
func (c *Container) Live() error {
	if d := c.hold.Load(); d != nil {
		return d
	}
	return nil
}

// Dead reports whether the container was quarantined or closed.
func (c *Container) Dead() bool { return c.pins.Load()&dead != 0 }

// Quarantine isolates the container for good: see [Container.Drain] for when
// the last effect has ended. The first reason stays.
func (c *Container) Quarantine(reason string) {
	c.kill(&DeniedError{Status: Quarantined, Reason: reason})
}

// Close ends the container without blame: its plugin was stopped.
func (c *Container) Close(reason string) {
	c.kill(&DeniedError{Status: Blocked, Reason: reason})
}

func (c *Container) kill(why *DeniedError) {
	c.mu.Lock()
	if c.Dead() {
		c.mu.Unlock()
		return
	}
	c.hold.Store(why)
	idle := c.pins.Add(dead) == dead
	cancels, handles := c.cancels, c.handles
	c.cancels, c.handles = nil, nil
	c.mu.Unlock()

	for _, cancel := range cancels {
		cancel(why)
	}
	for _, h := range handles {
		_ = h.object.Close()
	}
	if idle {
		c.once.Do(func() { close(c.drained) })
	}
}

// Drain waits until no effect of a dead container is in flight. Errors: that
// of ctx, with how many are left.
func (c *Container) Drain(ctx context.Context) error {
	select {
	case <-c.drained:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("container %s: %d effects still in flight: %w", c.id, c.pins.Load()&^dead, ctx.Err())
	}
}

// pin keeps the container's effects counted until unpin.
func (c *Container) pin() *DeniedError {
	if c.pins.Add(1)&dead != 0 {
		c.unpin()
		return c.hold.Load()
	}
	if d := c.hold.Load(); d != nil {
		c.unpin()
		return d
	}
	return nil
}

func (c *Container) unpin() {
	if c.pins.Add(-1) == dead {
		c.once.Do(func() { close(c.drained) })
	}
}

// bind derives a context that ends when the container dies. The returned
// function must be called.
func (c *Container) bind(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	c.mu.Lock()
	if c.cancels == nil {
		c.mu.Unlock()
		cancel(c.hold.Load())
		return ctx, cancel
	}
	c.nextCtx++
	id := c.nextCtx
	c.cancels[id] = cancel
	c.mu.Unlock()
	return ctx, func(cause error) {
		c.mu.Lock()
		delete(c.cancels, id)
		c.mu.Unlock()
		cancel(cause)
	}
}
