package mapping

import (
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// backing is the file, from which a reset copies what was written to.
type backing struct{ fd int } // 0 is none

func keep(fd int) (backing, error) {
	// Not 0, which is none.
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 1)
	return backing{dup}, err
}

// reset makes the memory the file's again. Pages that were written to are the
// memory's own: as long as they are few, they are filled from the file and stay,
// so that who writes to them next meets no page fault, which costs more than the
// copy. Else they are given up, and the private mapping shows the file again
// (madvise(2), MADV_DONTNEED).
func (b backing) reset(memory []byte) error {
	if b.refill(memory) {
		return nil
	}
	return unix.Madvise(memory, unix.MADV_DONTNEED)
}

func (b backing) close() {
	if b.fd > 0 {
		_ = unix.Close(b.fd) // nothing was written to it
	}
}

// maxRefill is how many pages of its own a memory keeps over a reset.
const maxRefill = 256

// refill copies the file to the pages that are the memory's own; false, with
// any of them done or none, if it cannot or they are too many.
func (b backing) refill(memory []byte) bool {
	pagemap := pagemap()
	if pagemap == nil {
		return false
	}
	base := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(memory))))
	var found [32]pageRegion
	for at, end, left := base, base+uint64(len(memory)), uint64(maxRefill); at < end; {
		arg := scanArg{
			size: uint64(unsafe.Sizeof(scanArg{})), start: at, end: end, vec: uint64(uintptr(unsafe.Pointer(&found))), vecLen: uint64(len(found)), maxPages: left,
			inverted: pageIsFile, mask: pageIsFile, anyOf: pageIsPresent | pageIsSwapped, result: pageIsPresent,
		}
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, pagemap.Fd(), pagemapScan, uintptr(unsafe.Pointer(&arg)))
		if errno != 0 {
			return false
		}
		for _, r := range found[:n] {
			part := memory[r.start-base : r.end-base]
			if got, err := unix.Pread(b.fd, part, int64(r.start-base)); err != nil || got < len(part) {
				return false
			}
			left -= min(left, uint64(len(part)/unix.Getpagesize()))
		}
		if left == 0 {
			return false
		}
		at = arg.walkEnd
	}
	return true
}

// pagemap is what PAGEMAP_SCAN asks, nil if this system does not let it.
var pagemap = sync.OnceValue(func() *os.File {
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return nil
	}
	return f
})

// From linux/fs.h: PAGEMAP_SCAN, since Linux 6.7.
const (
	pagemapScan   = 0xc0606610
	pageIsFile    = 1 << 2
	pageIsPresent = 1 << 3
	pageIsSwapped = 1 << 4
)

type scanArg struct {
	size, flags, start, end, walkEnd, vec, vecLen, maxPages, inverted, mask, anyOf, result uint64
}

type pageRegion struct {
	start, end uint64
	_          uint64 // categories
}
