package child

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

func supported() error { return nil }

// attributes gives the child a process group of its own, and has it killed when
// the thread that starts it ends, as it does with the kernel's process.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// awaitExit returns when a child of this process has ended. It is not reaped
// by that: its id and its group's stay its own.
func awaitExit(pid int) {
	for errors.Is(unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
}

// killGroup kills the process and what it started in its process group.
func killGroup(pid int) { _ = unix.Kill(-pid, unix.SIGKILL) }
