//go:build linux || darwin

package child

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// keepFiles marks every open file of this process, save the standard ones, to
// be closed on exec. Go opens its own so; what this process inherited, or a C
// library opened, may not be.
func keepFiles() error {
	files, err := os.ReadDir("/dev/fd")
	if err != nil {
		return err
	}
	for _, f := range files {
		if fd, err := strconv.Atoi(f.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}
