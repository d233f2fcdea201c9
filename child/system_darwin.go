package child

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

func supported() error { return nil }

// attributes gives the child a process group of its own.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// awaitExit returns when a child of this process has ended. It is not reaped
// by that: its id and its group's stay its own.
func awaitExit(pid int) {
	kq, err := unix.Kqueue()
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(kq) }()
	exit := []unix.Kevent_t{{Ident: uint64(pid), Filter: unix.EVFILT_PROC, Flags: unix.EV_ADD | unix.EV_ONESHOT, Fflags: unix.NOTE_EXIT}}
	for {
		// It fails with ESRCH where the process has ended already.
		if _, err := unix.Kevent(kq, exit, make([]unix.Kevent_t, 1), nil); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// killGroup kills the process and what it started in its process group.
func killGroup(pid int) { _ = unix.Kill(-pid, unix.SIGKILL) }
