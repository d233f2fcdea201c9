package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

var errHeld = errors.New("lock is held")

// lockDir takes the lock of a directory, which is held until the file is
// closed, by the operating system if the process dies.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	switch err := lockFile(f); {
	case errors.Is(err, errHeld):
		text, _ := os.ReadFile(f.Name())
		pid, _ := strconv.Atoi(strings.TrimSpace(string(text))) // the holder may not have written it yet
		return nil, errors.Join(&LockedError{Dir: dir, PID: pid}, f.Close())
	case err != nil:
		return nil, errors.Join(fmt.Errorf("state: lock %s: %w", f.Name(), err), f.Close())
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("state: write %s: %w", f.Name(), err), f.Close())
	}
	return f, nil
}
