//go:build !linux

package syscalls

import (
	"errors"
	"os"
)

// linkByName is linkAt where a link can only be made by the name of the file:
// one that turns out to be of another file is removed.
func linkByName(from, to *target, link, remove func() error) error {
	if err := from.inPlace(from.info); err != nil {
		return err
	}
	if err := link(); err != nil {
		return err
	}
	if now, err := to.dir().root.Lstat(to.name); err != nil || !os.SameFile(now, from.info) {
		return errors.Join(stale(from.path), remove())
	}
	return nil
}
