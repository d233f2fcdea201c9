//go:build !linux && !darwin

package mapping

import (
	"errors"
	"os"
	"runtime"
)

// Supported says whether this system has what the package does.
const Supported = false

var errUnsupported = errors.New("mapped memory needs Linux or macOS, and this is " + runtime.GOOS)

// Reservation is a range of addresses for a memory that grows within it.
type Reservation struct{}

// Reserve returns an error that says what the system lacks.
func Reserve(_, _ uint64) (*Reservation, error) { return nil, errUnsupported }

// Commit returns nil: nothing is reserved.
func (*Reservation) Commit(uint64) []byte { return nil }

// Holds returns false.
func (*Reservation) Holds([]byte) bool { return false }

// Free does nothing.
func (*Reservation) Free() error { return nil }

type backing struct{}

func lay([]byte, *os.File) (backing, error) { return backing{}, errUnsupported }

func (backing) reset([]byte) error { return errUnsupported }

func (backing) close() {}
