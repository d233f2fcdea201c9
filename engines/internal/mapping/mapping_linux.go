package mapping

import "golang.org/x/sys/unix"

// backing is what a reset needs of the file: nothing on Linux, where a private
// mapping shows the file again once its own pages are given up (madvise(2),
// MADV_DONTNEED).
type backing struct{}

func keep(int) (backing, error) { return backing{}, nil }

func (backing) reset(memory []byte) error { return unix.Madvise(memory, unix.MADV_DONTNEED) }

func (backing) close() {}
