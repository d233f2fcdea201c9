package syscalls

import (
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Times that are none (sys/stat.h).
const (
	utimeNow  = -1
	utimeOmit = -2
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

// setTimes sets the times of an open file, in microseconds.
func setTimes(f *os.File, accessed, modified stamp) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	old := attributesOf(info)
	return control(f, func(fd int) error {
		return unix.Futimes(fd, []unix.Timeval{accessed.timeval(old.accessed), modified.timeval(old.modified)})
	})
}

func (s stamp) timeval(old int64) unix.Timeval {
	switch {
	case s.now:
		return unix.NsecToTimeval(time.Now().UnixNano())
	case s.keep:
		return unix.NsecToTimeval(old)
	}
	return unix.NsecToTimeval(s.ns)
}

// linkAt gives a file a further name.
func linkAt(from, to *target) error {
	return linkByName(from, to, func() error {
		return at(from.dir().root, func(fromDir int) error {
			return at(to.dir().root, func(toDir int) error { return unix.Linkat(fromDir, from.name, toDir, to.name, 0) })
		})
	}, func() error { return removeAt(to.dir().root, to.name, false) })
}
