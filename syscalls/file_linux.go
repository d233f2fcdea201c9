package syscalls

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

func attributesOf(info fs.FileInfo) attributes {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return attributes{}
	}
	return attributes{uint64(st.Dev), st.Ino, uint64(st.Nlink), st.Atim.Nano(), st.Mtim.Nano(), st.Ctim.Nano()}
}

// syncData waits until the file's content is on disk.
func syncData(f *os.File) error { return control(f, unix.Fdatasync) }

// grow extends a file, if it is shorter.
func grow(f *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	err := control(f, func(fd int) error { return unix.Fallocate(fd, 0, 0, size) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return extend(f, size)
	}
	return err
}
