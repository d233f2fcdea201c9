//go:build linux || darwin

package mapping

import (
	"errors"
	"fmt"
	"math"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Supported says whether this system has what the package does.
const Supported = true

// Reservation is a range of addresses for a memory that grows within it, and so
// does not move. What is not committed has no access and costs no memory.
type Reservation struct {
	all       []byte
	committed uint64
}

// Reserve reserves size bytes and commits those before committed. The caller
// frees them.
func Reserve(committed, size uint64) (*Reservation, error) {
	if size == 0 {
		return new(Reservation), nil
	}
	if size > math.MaxInt {
		return nil, fmt.Errorf("reserve %d bytes of addresses: this system has fewer", size)
	}
	all, err := unix.Mmap(-1, 0, int(size), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("reserve %d bytes of addresses: %w (is there a limit on them, RLIMIT_AS?)", size, err)
	}
	r := &Reservation{all: all}
	if r.Commit(committed) == nil {
		return nil, errors.Join(fmt.Errorf("commit %d bytes of memory: the system has not as many to give", committed), r.Free())
	}
	return r, nil
}

// Commit makes the first size bytes accessible, and returns them with no capacity
// beyond; nil when there are not as many. Size is a multiple of the system's page.
func (r *Reservation) Commit(size uint64) []byte {
	if size > uint64(len(r.all)) {
		return nil
	}
	if size > r.committed {
		if err := unix.Mprotect(r.all[r.committed:size], unix.PROT_READ|unix.PROT_WRITE); err != nil {
			return nil
		}
		r.committed = size
	}
	return r.all[:size:size]
}

// Holds says whether memory begins where the reservation does.
func (r *Reservation) Holds(memory []byte) bool {
	return unsafe.SliceData(memory) == unsafe.SliceData(r.all)
}

// Free gives the addresses back. Nothing may use them any more.
func (r *Reservation) Free() error {
	if len(r.all) == 0 {
		return nil
	}
	all := r.all
	*r = Reservation{}
	return unix.Munmap(all)
}

// lay maps the beginning of the file over memory.
func lay(memory []byte, file *os.File) (backing, error) {
	page := unix.Getpagesize()
	at := unsafe.Pointer(unsafe.SliceData(memory))
	if uintptr(at)%uintptr(page) != 0 {
		return backing{}, fmt.Errorf("the memory is at %p, which is not the beginning of a page", at)
	}
	var kept backing
	err := control(file, func(fd int) error {
		// A mapping that fails may leave a hole where memory was. What there is
		// to say against this file is found elsewhere first.
		probe, err := unix.MmapPtr(fd, 0, nil, uintptr(page), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
		if err != nil {
			return err
		}
		if err := unix.MunmapPtr(probe, uintptr(page)); err != nil {
			return err
		}
		if kept, err = keep(fd, uint64(len(memory))); err != nil {
			return err
		}
		if err := overlay(memory, fd); err != nil {
			kept.close()
			return err
		}
		return nil
	})
	return kept, err
}

// overlay maps the beginning of the open file over memory.
func overlay(memory []byte, fd int) error {
	_, err := unix.MmapPtr(fd, 0, unsafe.Pointer(unsafe.SliceData(memory)), uintptr(len(memory)),
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_FIXED)
	return err
}

// control calls f with the descriptor of the file, which stays open meanwhile.
func control(file *os.File, f func(fd int) error) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	if err := conn.Control(func(fd uintptr) { failure = f(int(fd)) }); err != nil {
		return err
	}
	return failure
}
