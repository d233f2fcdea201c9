package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ErrLocked is returned by Open when the directory is being written already,
// by this process or another; the error names which.
var ErrLocked = errors.New("audit: log is in use")

var errHeld = errors.New("lock is held")

// lockDir makes this process the one writer of dir until the file is closed.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	switch err := lockFile(f); {
	case err == errHeld:
		pid, _ := os.ReadFile(f.Name())
		f.Close()
		return nil, fmt.Errorf("%w: %s is written by process %s", ErrLocked, dir, strings.TrimSpace(string(pid)))
	case err != nil:
		f.Close()
		return nil, fmt.Errorf("audit: lock %s: %w", dir, err)
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("audit: write %s: %w", f.Name(), err)
	}
	return f, nil
}
