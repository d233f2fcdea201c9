package syscalls

import (
	"context"
	"fmt"
	"sync"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
)

// Limits of shared buffers.
const (
	MaxBuffer       = 16 << 20 // bytes of one
	MaxBuffers      = 1024     // of the kernel
	MaxBufferMemory = 64 << 20 // bytes of all of the kernel
	MaxBufferAccess = 1 << 20  // bytes that one mem_read returns, and one mem_write takes
)

// buffers are the buffers that plugins share, by name. They last until they are
// freed: the plugins that share one come and go.
type buffers struct {
	mu     sync.RWMutex // guards what follows
	byName map[string][]byte
	bytes  int
}

func mem() []abi.Registration {
	b := &buffers{byName: map[string][]byte{}}
	return []abi.Registration{
		{
			Name: "mem_alloc", Args: []string{"name", "size"}, MinTrust: capability.Standard, World: true,
			Doc:     fmt.Sprintf("Make a buffer of that many zero bytes, at most %d, which plugins share by its name until it is freed. A kernel has at most %d, of %d bytes together.", MaxBuffer, MaxBuffers, MaxBufferMemory),
			Resolve: named("mem"), Handler: b.alloc,
		},
		{
			Name: "mem_free", Args: []string{"name"}, MinTrust: capability.Standard, World: true,
			Doc:     "Free a shared buffer.",
			Resolve: named("mem"), Handler: b.free,
		},
		{
			Name: "mem_read", Args: []string{"name", "offset", "n"}, MinTrust: capability.Standard,
			Doc:     fmt.Sprintf("Read n bytes, at most %d, at an offset of a shared buffer.", MaxBufferAccess),
			Resolve: named("mem"), Handler: b.read,
		},
		{
			Name: "mem_write", Args: []string{"name", "offset"}, MinTrust: capability.Standard, World: true, Fold: true,
			Doc:     fmt.Sprintf("Write the payload, at most %d bytes, at an offset of a shared buffer. No other access sees a part of it.", MaxBufferAccess),
			Resolve: named("mem"), Handler: b.write,
		},
	}
}

func (b *buffers) alloc(_ context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
	size, err := count("size", sc.Args[1])
	if err != nil {
		return nil, err
	}
	if err := tooLarge("size", size, MaxBuffer); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, taken := b.byName[sc.Args[0]]; taken {
		return nil, abi.Fail(abi.CodeExists, "there is a buffer %s", sc.Args[0])
	}
	if len(b.byName) >= MaxBuffers || b.bytes+int(size) > MaxBufferMemory {
		return nil, abi.Fail(abi.CodeNoSpace, "%d buffers have %d bytes, at most %d may have %d; free some", len(b.byName), b.bytes, MaxBuffers, MaxBufferMemory)
	}
	b.byName[sc.Args[0]] = make([]byte, size)
	b.bytes += int(size)
	return nil, nil
}

func (b *buffers) free(_ context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	buffer, ok := b.byName[sc.Args[0]]
	if !ok {
		return nil, noBuffer(sc)
	}
	delete(b.byName, sc.Args[0])
	b.bytes -= len(buffer)
	return nil, nil
}

func noBuffer(sc *abi.SyscallContext) error {
	return abi.Fail(abi.CodeNotFound, "there is no buffer %s", sc.Args[0])
}

// part is n bytes of a buffer at the offset of argument 1. It is called with mu
// held.
func (b *buffers) part(sc *abi.SyscallContext, n uint64) ([]byte, error) {
	offset, err := count("offset", sc.Args[1])
	if err != nil {
		return nil, err
	}
	if err := tooLarge("length", n, MaxBufferAccess); err != nil {
		return nil, err
	}
	buffer, ok := b.byName[sc.Args[0]]
	size := uint64(len(buffer))
	switch {
	case !ok:
		return nil, noBuffer(sc)
	case offset > size || n > size-offset:
		return nil, abi.Fail(abi.CodeInvalid, "%d bytes at %d are not in a buffer of %d", n, offset, size)
	}
	return buffer[offset : offset+n], nil
}

func (b *buffers) read(_ context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
	n, err := count("n", sc.Args[2])
	if err != nil {
		return nil, err
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	p, err := b.part(sc, n)
	if err != nil {
		return nil, err
	}
	return append(make([]byte, 0, n), p...), nil
}

func (b *buffers) write(_ context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, err := b.part(sc, uint64(len(sc.Payload)))
	if err != nil {
		return nil, err
	}
	copy(p, sc.Payload)
	return nil, nil
}
