package abi

import (
	"errors"
	"io"
)

// Handle names something a plugin holds open. It is tagged with its
// container's generation, so that one of another container, or of this one
// before it was isolated, names nothing. 0 is never a handle.
//
// A handle is its container's, or its call's alone where the subject has
// CallHandles: it is then closed when the call ends, and names nothing to any
// other call.
type Handle uint64

// MaxHandles is how many handles a container may hold at once.
const MaxHandles = 1024

// ErrHandles is returned when a container holds [MaxHandles] already.
var ErrHandles = errors.New("too many open handles")

// open is what a handle names.
type open struct {
	object   io.Closer
	resource string
	owner    *Call // nil for the container
}

// owner is whose the handles of the request are: nil for the container.
func (sc *SyscallContext) owner() *Call {
	if sc.CallHandles {
		return sc.Call
	}
	return nil
}

// Open makes a handle for an object, which is closed with the handle, with the
// call if handles are its own, and with the container. resource is its
// canonical resource. On an error the object is closed.
func (sc *SyscallContext) Open(object io.Closer, resource string) (Handle, error) {
	h, err := sc.Container.open(open{object, resource, sc.owner()})
	if err != nil {
		_ = object.Close()
	}
	return h, err
}

// Object is what the request's handle names, with its resource; false for a
// handle that is not the requester's or was closed.
func (sc *SyscallContext) Object() (object io.Closer, resource string, ok bool) {
	c := sc.Container
	c.mu.Lock()
	defer c.mu.Unlock()
	o, ok := c.find(sc.Handle, sc.owner())
	return o.object, o.resource, ok
}

// CloseHandle closes what the request's handle names.
func (sc *SyscallContext) CloseHandle() error {
	c, owner := sc.Container, sc.owner()
	c.mu.Lock()
	o, ok := c.find(sc.Handle, owner)
	if ok {
		delete(c.handles, uint32(sc.Handle))
		if owner != nil {
			owner.handles--
		}
	}
	c.mu.Unlock()
	if !ok {
		return Fail(CodeBadHandle, "handle %#x is not open here", uint64(sc.Handle))
	}
	return o.object.Close()
}

// find is what a handle names to an owner. It is called with mu held.
func (c *Container) find(h Handle, owner *Call) (open, bool) {
	if uint32(h>>32) != c.gen {
		return open{}, false
	}
	o, ok := c.handles[uint32(h)]
	if !ok || o.owner != owner {
		return open{}, false
	}
	return o, true
}

func (c *Container) open(o open) (Handle, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.handles == nil:
		return 0, c.hold.Load()
	case o.owner != nil && o.owner.ended:
		return 0, Fail(CodeBadHandle, "the call that a handle was to be opened for has ended")
	case len(c.handles) >= MaxHandles:
		return 0, ErrHandles
	}
	for {
		c.nextH++
		if _, taken := c.handles[c.nextH]; !taken && c.nextH != 0 {
			break
		}
	}
	c.handles[c.nextH] = o
	if o.owner != nil {
		o.owner.handles++
	}
	return Handle(uint64(c.gen)<<32 | uint64(c.nextH)), nil
}

// disown closes the handles of a call that ends, and keeps it from opening
// more. It returns how many were left open.
func (c *Container) disown(call *Call) int {
	c.mu.Lock()
	call.ended = true
	var left []io.Closer
	if call.handles > 0 && c.handles != nil { // a dead container has closed them
		for n, o := range c.handles {
			if o.owner == call {
				delete(c.handles, n)
				left = append(left, o.object)
			}
		}
	}
	c.mu.Unlock()
	for _, object := range left {
		_ = object.Close()
	}
	return len(left)
}

// Handles is how many handles of its own the call has open.
func (c *Call) Handles() int {
	mu := &c.subject.Container.mu
	mu.Lock()
	defer mu.Unlock()
	return c.handles
}
