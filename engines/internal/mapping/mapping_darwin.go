package mapping

import "golang.org/x/sys/unix"

// backing is the file, which a reset maps again: elsewhere than on Linux,
// MADV_DONTNEED is advice, and may leave what was written.
type backing struct{ fd int } // 0 is none

func keep(fd int, _ uint64) (backing, error) {
	// Not 0, which is none.
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 1)
	return backing{dup}, err
}

func (b backing) reset(memory []byte) error { return overlay(memory, b.fd) }

func (b backing) close() {
	if b.fd > 0 {
		_ = unix.Close(b.fd) // nothing was written to it
	}
}
