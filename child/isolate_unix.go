//go:build unix && !linux

package child

import (
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

func supported() error { return nil }

// isolate gives the child a process group of its own.
func isolate(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// killGroup kills the child and what it started in its process group.
func killGroup(cmd *exec.Cmd) {
	if cmd.Process != nil {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	}
}
