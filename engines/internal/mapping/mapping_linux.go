package mapping

import (
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// backing is the file, mapped once more and only to be read. A private mapping
// shows the file again once its own pages are given up (madvise(2),
// MADV_DONTNEED), but each page that is then written to again costs a fault,
// which takes many times as long as copying one. So a few are copied back.
type backing struct {
	file []byte
	scan *pageScan
}

// maxCopied is how many pages are copied back, and stay with the mapping.
const maxCopied = 256

// keep maps the file privately, although nothing writes to the mapping: Linux
// before 6.7, and some after, refuses to share a memfd that is sealed against
// writing, even to be read.
func keep(fd int, size uint64) (backing, error) {
	file, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ, unix.MAP_PRIVATE)
	return backing{file: file, scan: new(pageScan)}, err
}

func (b backing) reset(memory []byte) error {
	if own, ok := b.scan.own(memory); ok {
		base := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(memory))))
		for _, r := range own {
			copy(memory[r.start-base:r.end-base], b.file[r.start-base:])
		}
		return nil
	}
	return unix.Madvise(memory, unix.MADV_DONTNEED)
}

func (b backing) close() {
	if b.file != nil {
		_ = unix.Munmap(b.file) // it is whole, as it was mapped
	}
}

// pageScan finds the pages that a private mapping has of its own. It is both
// argument and result of the ioctl PAGEMAP_SCAN, which Linux has since 6.7
// (linux/fs.h, struct pm_scan_arg; Documentation/admin-guide/mm/pagemap.rst).
type pageScan struct {
	arg struct {
		size, flags, start, end, walkEnd, vec, vecLen, maxPages   uint64
		inverted, categoryMask, categoryAnyMask, returnCategories uint64
	}
	regions [maxCopied]pageRegion
}

type pageRegion struct{ start, end, _ uint64 }

const (
	ioctlPagemapScan = 0xc0606610 // _IOWR('f', 16, struct pm_scan_arg)

	pageIsFile    = 1 << 2
	pageIsPresent = 1 << 3
	pageIsSwapped = 1 << 4
)

// pagemap is what PAGEMAP_SCAN is asked of, for the life of the process.
var pagemap = sync.OnceValues(func() (*os.File, error) { return os.Open("/proc/self/pagemap") })

// own lists the pages of memory that are no longer the file's. It is false where
// the system cannot say, and where they are more than maxCopied.
func (s *pageScan) own(memory []byte) ([]pageRegion, bool) {
	f, err := pagemap()
	if err != nil {
		return nil, false
	}
	start := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(memory))))
	a := &s.arg
	a.size, a.start, a.end = uint64(unsafe.Sizeof(*a)), start, start+uint64(len(memory))
	a.vec, a.vecLen = uint64(uintptr(unsafe.Pointer(&s.regions))), uint64(len(s.regions))
	a.maxPages = maxCopied + 1
	a.inverted, a.categoryMask = pageIsFile, pageIsFile // not a file's
	a.categoryAnyMask = pageIsPresent | pageIsSwapped
	a.returnCategories = pageIsPresent
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ioctlPagemapScan, uintptr(unsafe.Pointer(a)))
	if errno != 0 || a.walkEnd < a.end {
		return nil, false
	}
	return s.regions[:n], true
}
