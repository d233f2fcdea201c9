//go:build linux || darwin

package audit

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"

	"golang.org/x/sys/unix"
)

// mapSegment is a segment in a shared memory map of its file: what was copied
// into it belongs to the kernel's page cache, and outlives the process.
type mapSegment struct {
	f   *os.File
	mu  sync.RWMutex // held to unmap, and against it
	mem []byte       // nil once closed
}

// newSegment reserves size bytes for f, which is used long, and maps it.
func newSegment(f *os.File, used, size int64) (segment, error) {
	if err := reserve(f, used, size); err != nil {
		return nil, fmt.Errorf("reserve %d bytes for %s: %w", size, f.Name(), err)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	return &mapSegment{f: f, mem: mem}, nil
}

// write stores the newline after everything else: the order of stores is that
// of the program to whoever reads the file after the process was killed.
func (s *mapSegment) write(line []byte, offset int64) (err error) {
	defer s.fault(debug.SetPanicOnFault(true), &err)
	last := len(line) - 1
	copy(s.mem[offset:offset+int64(last)], line[:last])
	s.mem[offset+int64(last)] = line[last]
	return nil
}

func (s *mapSegment) read(b []byte, offset int64) (err error) {
	defer s.fault(debug.SetPanicOnFault(true), &err)
	copy(b, s.mem[offset:offset+int64(len(b))])
	return nil
}

func (s *mapSegment) warm(offset, end int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.mem != nil {
		page := int64(os.Getpagesize())
		populate(s.mem[offset&^(page-1) : min(end, int64(len(s.mem)))])
	}
}

func (s *mapSegment) sync() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.mem == nil {
		return os.ErrClosed
	}
	if err := flush(s.mem); err != nil {
		return &os.PathError{Op: "msync", Path: s.f.Name(), Err: err}
	}
	return s.f.Sync()
}

func (s *mapSegment) close(size int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := unix.Munmap(s.mem)
	s.mem = nil
	if size >= 0 {
		err = errors.Join(err, s.f.Truncate(size))
	}
	return errors.Join(err, s.f.Close())
}

// fault turns a memory fault, which is how a map tells that its file was cut or
// its disk has failed, into an error instead of the end of the process. It is
// to be deferred, with what debug.SetPanicOnFault(true) returned.
func (s *mapSegment) fault(old bool, err *error) {
	debug.SetPanicOnFault(old)
	if p := recover(); p != nil {
		at, ok := p.(interface{ Addr() uintptr })
		if !ok {
			panic(p)
		}
		*err = fmt.Errorf("%s: memory fault at %#x: the file was cut or its disk has failed", s.f.Name(), at.Addr())
	}
}
