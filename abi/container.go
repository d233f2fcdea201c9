package abi

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// Handle names something a plugin holds open. It is tagged with its
// container's generation, so that one of another container, or of this one
// before it was isolated, names nothing. 0 is never a handle.
type Handle uint64

// MaxHandles is how many handles a container may hold at once.
const MaxHandles = 1024

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

type open struct {
	object   io.Closer
	resource string
}

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

// ErrHandles is returned when a container holds [MaxHandles] already.
var ErrHandles = errors.New("too many open handles")

// Open makes a handle for an object, and owns it: it is closed with the handle
// or with the container. resource is its canonical resource. On an error the
// object is closed.
func (c *Container) Open(object io.Closer, resource string) (Handle, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.handles == nil || len(c.handles) >= MaxHandles {
		_ = object.Close()
		if c.handles == nil {
			return 0, c.hold.Load()
		}
		return 0, ErrHandles
	}
	for {
		c.nextH++
		if _, taken := c.handles[c.nextH]; !taken && c.nextH != 0 {
			break
		}
	}
	c.handles[c.nextH] = open{object, resource}
	return Handle(uint64(c.gen)<<32 | uint64(c.nextH)), nil
}

// Object is what a handle names, with its resource; false for a handle that is
// not this container's or was closed.
func (c *Container) Object(h Handle) (object io.Closer, resource string, ok bool) {
	if uint32(h>>32) != c.gen {
		return nil, "", false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	o, ok := c.handles[uint32(h)]
	return o.object, o.resource, ok
}

// CloseHandle closes what a handle names.
func (c *Container) CloseHandle(h Handle) error {
	if uint32(h>>32) != c.gen {
		return Fail(CodeBadHandle, "handle %#x is not open here", uint64(h))
	}
	c.mu.Lock()
	o, ok := c.handles[uint32(h)]
	delete(c.handles, uint32(h))
	c.mu.Unlock()
	if !ok {
		return Fail(CodeBadHandle, "handle %#x is not open here", uint64(h))
	}
	return o.object.Close()
}
