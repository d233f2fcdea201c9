//go:build unix

package syscalls

import (
	"os"

	"golang.org/x/sys/unix"
)

// append writes at the end of the file, wherever another has moved it to
// meanwhile. It is called with mu held.
func (f *file) append(p []byte) (int, error) {
	if err := f.setAppending(true); err != nil {
		return 0, err
	}
	return f.Write(p)
}

// setAppending sets or clears the append flag. It is called with mu held.
func (f *file) setAppending(on bool) error {
	if f.appending == on {
		return nil
	}
	err := control(f.File, func(fd int) error {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err != nil {
			return err
		}
		flags &^= unix.O_APPEND
		if on {
			flags |= unix.O_APPEND
		}
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags)
		return err
	})
	if err == nil {
		f.appending = on
	}
	return err
}

// control calls with the file's descriptor, which stays open meanwhile.
func control(f *os.File, call func(fd int) error) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = c.Control(func(fd uintptr) { failed = call(int(fd)) })
	if err != nil {
		return err
	}
	return failed
}

// at calls with the descriptor of a directory.
func at(dir *os.Root, call func(fd int) error) error {
	f, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return control(f, call)
}

// removeAt removes a directory, or what is none.
func removeAt(dir *os.Root, name string, isDir bool) error {
	flags := 0
	if isDir {
		flags = unix.AT_REMOVEDIR
	}
	return at(dir, func(fd int) error { return unix.Unlinkat(fd, name, flags) })
}

// renameAt gives an object another name. os.Root would walk two paths again.
func renameAt(from, to *target) error {
	return at(from.dir().root, func(fromDir int) error {
		return at(to.dir().root, func(toDir int) error { return unix.Renameat(fromDir, from.name, toDir, to.name) })
	})
}

// setTimesAt sets the times of what a directory lists, following no link.
func setTimesAt(dir *os.Root, name string, accessed, modified stamp) error {
	return at(dir, func(fd int) error {
		return unix.UtimesNanoAt(fd, name, []unix.Timespec{accessed.timespec(), modified.timespec()}, unix.AT_SYMLINK_NOFOLLOW)
	})
}

func (s stamp) timespec() unix.Timespec {
	switch {
	case s.now:
		return unix.Timespec{Nsec: utimeNow}
	case s.keep:
		return unix.Timespec{Nsec: utimeOmit}
	}
	return unix.NsecToTimespec(s.ns)
}
