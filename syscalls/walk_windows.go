package syscalls

import (
	"errors"
	"strings"

	"golang.org/x/sys/windows"
)

// openFlags are none: os.Root opens relative to a handle and follows no
// reparse point, and pipes and devices have no names in a directory.
const openFlags = 0

// Errors that are told apart by their number.
const (
	errNotEmpty = windows.ERROR_DIR_NOT_EMPTY
	errCross    = windows.ERROR_NOT_SAME_DEVICE
)

// checkName refuses what Windows would take for more than a name, or for
// another one: separators, streams, wildcards, and the dots and spaces at its
// end, which it drops. (Naming Files, Paths, and Namespaces, Microsoft.)
func checkName(name string) error {
	switch {
	case strings.ContainsAny(name, `<>:"\|?*`):
		return errors.New(`Windows has no names with < > : " \ | ? *`)
	case strings.HasSuffix(name, "."), strings.HasSuffix(name, " "):
		return errors.New("Windows has no names that end in a dot or a space")
	}
	return nil
}
