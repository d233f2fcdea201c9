package syscalls

import (
	"io/fs"
	"os"
	"syscall"
)

func attributesOf(info fs.FileInfo) attributes {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return attributes{}
	}
	return attributes{uint64(st.Dev), st.Ino, uint64(st.Nlink), st.Atimespec.Nano(), st.Mtimespec.Nano(), st.Ctimespec.Nano()}
}

// syncData waits until the file's content is on disk.
func syncData(f *os.File) error { return f.Sync() }

// grow extends a file, if it is shorter.
func grow(f *os.File, size int64) error { return extend(f, size) }
