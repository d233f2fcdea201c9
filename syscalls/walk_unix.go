//go:build unix

package syscalls

import "syscall"

// openFlags keep an open from waiting, should a FIFO or a terminal have been
// put in the place of the file.
const openFlags = syscall.O_NONBLOCK | syscall.O_NOCTTY

// Errors that are told apart by their number.
const (
	errNotEmpty = syscall.ENOTEMPTY
	errCross    = syscall.EXDEV
)

// checkName refuses nothing: every name without a slash and a NUL is one.
func checkName(string) error { return nil }
