//go:build !linux && !darwin

package control

import (
	"errors"
	"runtime"
)

const maxSocketPath = 103

// unsupported is why there is no control socket on this system.
const unsupported = runtime.GOOS + " does not tell who is at the other end of a unix socket, so its peers cannot be checked"

func peerUID(int) (int, error) { return 0, errors.New(unsupported) }
