package control

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// ErrInUse is returned by Listen when another kernel answers on the socket.
var ErrInUse = errors.New("control socket is in use")

// Listener is the control socket of a kernel.
type Listener struct {
	net.Listener
	path string
}

// Listen makes the control socket, with mode 0600. What a dead kernel left at
// the path is replaced, so the caller MUST hold the lock of the state directory.
// Errors: [ErrInUse]; a path that is too long or taken by something else; a
// system on which peers cannot be checked.
func Listen(path string) (*Listener, error) {
	if unsupported != "" {
		return nil, fmt.Errorf("control socket %s: %s", path, unsupported)
	}
	// It gets its name only when its mode is set, and in one step.
	temp := filepath.Join(filepath.Dir(path), ".control")
	if n := max(len(path), len(temp)); n > maxSocketPath {
		return nil, fmt.Errorf("control socket %s: the path has %d bytes and a unix socket's at most %d: set a shorter socket in the kernel block, or a shorter state_dir", path, n, maxSocketPath)
	}
	switch fi, err := os.Lstat(path); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("control socket: %w", err)
	case fi.Mode().Type() != os.ModeSocket:
		return nil, fmt.Errorf("control socket %s: there is something else at that path: remove it, or set another socket in the kernel block", path)
	default:
		if c, err := net.Dial("unix", path); err == nil {
			_ = c.Close()
			return nil, fmt.Errorf("%w: a kernel answers on %s: stop it, or set another socket in the kernel block", ErrInUse, path)
		}
	}
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("control socket %s: its directory does not exist: make it, or set another socket in the kernel block", path)
	}
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l.SetUnlinkOnClose(false) // it goes by another name then
	err = os.Chmod(temp, 0o600)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		_ = l.Close()
		_ = os.Remove(temp)
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return &Listener{Listener: l, path: path}, nil
}

// Path is where the socket is.
func (l *Listener) Path() string { return l.path }

// Close removes the socket.
func (l *Listener) Close() error {
	if err := l.Listener.Close(); err != nil {
		return err // closed already: the path may be another's by now
	}
	if err := os.Remove(l.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}
