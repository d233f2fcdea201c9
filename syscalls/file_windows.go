package syscalls

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"forgeone.dev/forgeone/abi"
)

// append writes at the end of the file as it is now: Windows has no flag for it
// that a handle could take on. It is called with mu held.
func (f *file) append(p []byte) (int, error) {
	if _, err := f.Seek(0, io.SeekEnd); err != nil {
		return 0, err
	}
	return f.Write(p)
}

// setAppending has no flag to set.
func (f *file) setAppending(bool) error { return nil }

// attributesOf leaves out what Windows tells of open handles alone.
func attributesOf(info fs.FileInfo) attributes {
	d, ok := info.Sys().(*syscall.Win32FileAttributeData)
	if !ok {
		return attributes{links: 1}
	}
	return attributes{links: 1, accessed: d.LastAccessTime.Nanoseconds(), modified: d.LastWriteTime.Nanoseconds(), status: d.LastWriteTime.Nanoseconds()}
}

// syncData waits until the file's content is on disk.
func syncData(f *os.File) error { return f.Sync() }

// removeAt removes what a directory lists.
func removeAt(dir *os.Root, name string, _ bool) error { return dir.Remove(name) }

// inMount is the target's path in its mount. Windows has renames and links by a
// directory's handle, but os.Root has them in one root alone.
func (t *target) inMount() string {
	return strings.TrimPrefix(strings.TrimPrefix(t.path, t.dir().mount.Guest), "/")
}

// renameAt gives an object another name.
func renameAt(from, to *target) error {
	return from.dir().mount.Root.Rename(from.inMount(), to.inMount())
}

// linkAt gives a file a further name.
func linkAt(from, to *target) error {
	return linkByName(from, to,
		func() error { return from.dir().mount.Root.Link(from.inMount(), to.inMount()) },
		func() error { return to.dir().root.Remove(to.name) })
}

// setTimesAt sets the times of what a directory lists.
func setTimesAt(dir *os.Root, name string, accessed, modified stamp) error {
	if info, err := dir.Lstat(name); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return abi.Fail(abi.CodeUnsupported, "the times of a symbolic link cannot be set on Windows")
	}
	return dir.Chtimes(name, accessed.time(), modified.time())
}

// time is the zero time, which os.Root leaves as it is, for one to keep.
func (s stamp) time() time.Time {
	switch {
	case s.now:
		return time.Now()
	case s.keep:
		return time.Time{}
	}
	return time.Unix(0, s.ns)
}

// setTimes sets the times of an open file, if it is open for writing: Windows
// has a right of its own for that.
func setTimes(f *os.File, accessed, modified stamp) error {
	var times [2]syscall.Filetime // zero is kept
	for i, s := range []stamp{accessed, modified} {
		if t := s.time(); !t.IsZero() {
			times[i] = syscall.NsecToFiletime(t.UnixNano())
		}
	}
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = c.Control(func(h uintptr) { failed = syscall.SetFileTime(syscall.Handle(h), nil, &times[0], &times[1]) })
	return errors.Join(err, failed)
}
