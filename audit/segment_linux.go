package audit

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// reserve gives f blocks for all of size bytes, those after used reading as
// zero. File systems without fallocate get zeroes written instead.
func reserve(f *os.File, used, size int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	for errors.Is(err, unix.EINTR) {
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return zeroFill(f, used, size)
	}
	return err
}

// flush has nothing to do: fsync writes what was stored through a shared map.
func flush([]byte) error { return nil }

// populate makes the pages of mem writable now, so that a later write does not
// fault. Kernels before 5.14 do not know how: there each first write faults.
func populate(mem []byte) { _ = unix.Madvise(mem, unix.MADV_POPULATE_WRITE) }
