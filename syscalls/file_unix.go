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
