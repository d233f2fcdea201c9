//go:build linux || darwin

package cache

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// checkOwner is an error if others than this user and root have any of the rights.
func checkOwner(fi fs.FileInfo, rights fs.FileMode) error {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("it belongs to the user %d: code that others can place is not run; choose one of your own", st.Uid)
	}
	if mode := fi.Mode().Perm(); mode&rights != 0 {
		return fmt.Errorf("its mode is %04o: others must not have %04o of it; chmod it", mode, mode&rights)
	}
	return nil
}
