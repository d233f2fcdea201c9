package syscalls

import (
	"io/fs"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Times that are none (utimensat(2)).
const (
	utimeNow  = unix.UTIME_NOW
	utimeOmit = unix.UTIME_OMIT
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

// setTimes sets the times of an open file (Linux 5.8).
func setTimes(f *os.File, accessed, modified stamp) error {
	return control(f, func(fd int) error {
		return unix.UtimesNanoAt(fd, "", []unix.Timespec{accessed.timespec(), modified.timespec()}, unix.AT_EMPTY_PATH)
	})
}

// linkAt gives a file a further name. The file is held by a descriptor and
// linked by that, so that it is the one that was resolved whatever takes its
// name meanwhile. /proc must be mounted: AT_EMPTY_PATH is a privilege.
func linkAt(from, to *target) error {
	f, err := from.dir().root.OpenFile(from.name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(info, from.info) {
		return stale(from.path)
	}
	if err := from.inPlace(info); err != nil {
		return err
	}
	return control(f, func(fd int) error {
		return at(to.dir().root, func(dir int) error {
			return unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), dir, to.name, unix.AT_SYMLINK_FOLLOW)
		})
	})
}
