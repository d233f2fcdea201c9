package state

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// lockFile takes the lock on f, or returns errHeld. The range that it locks
// lies behind the file's content, which so stays readable to others.
func lockFile(f *os.File) error {
	at := windows.Overlapped{OffsetHigh: 1}
	err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &at)
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return errHeld
	}
	return err
}

// unlockFile has nothing to do: a lock ends with its handle.
func unlockFile(*os.File) {}

// syncDir has nothing to do: NTFS journals names, and a directory cannot be flushed.
func syncDir(string) error { return nil }
