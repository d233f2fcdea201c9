//go:build linux || darwin

package worker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// supported says why workers cannot be had on this system, "" if they can.
func supported() string { return "" }

// socketPair makes two connected sockets, which no other process inherits.
func socketPair() (ours, theirs *os.File, err error) {
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	if ours, err = pollable(fds[0]); err != nil {
		return nil, nil, errors.Join(err, syscall.Close(fds[1]))
	}
	return ours, os.NewFile(uintptr(fds[1]), "worker"), nil
}

// pollable makes a file of a descriptor that is waited for without a thread.
func pollable(fd int) (*os.File, error) {
	if err := syscall.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(os.NewSyscallError("fcntl", err), syscall.Close(fd))
	}
	return os.NewFile(uintptr(fd), "worker"), nil
}

// sendFile sends b and a descriptor.
func sendFile(c *net.UnixConn, b []byte, f *os.File) error {
	n, _, err := c.WriteMsgUnix(b, syscall.UnixRights(int(f.Fd())), nil)
	if err == nil && n < len(b) {
		_, err = c.Write(b[n:])
	}
	return err
}

// receive fills b and returns the descriptor that came with it, nil if none did.
func receive(c *net.UnixConn, b []byte) (f *os.File, err error) {
	oob := make([]byte, syscall.CmsgSpace(4))
	defer func() {
		if err != nil && f != nil {
			_ = f.Close()
		}
	}()
	for n := 0; n < len(b); {
		m, oobn, _, _, err := c.ReadMsgUnix(b[n:], oob)
		if err != nil {
			return f, err
		}
		n += m
		if oobn == 0 {
			continue
		}
		if f != nil {
			return f, errors.New("two descriptors with one frame")
		}
		if f, err = descriptor(oob[:oobn]); err != nil {
			return f, err
		}
	}
	return f, nil
}

func descriptor(oob []byte) (*os.File, error) {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, os.NewSyscallError("parse control message", err)
	}
	if len(messages) != 1 {
		return nil, fmt.Errorf("%d control messages, want 1", len(messages))
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("%d descriptors, want 1: %w", len(fds), err)
	}
	syscall.CloseOnExec(fds[0])
	return pollable(fds[0])
}

// awaitReadable returns when f can be read. It blocks the thread.
func awaitReadable(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var polled error
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for polled = unix.EINTR; polled == unix.EINTR; {
			_, polled = unix.Poll(fds, -1)
		}
	})
	return errors.Join(err, os.NewSyscallError("poll", polled))
}
