//go:build !linux && !darwin

package worker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
)

var errNoPairs = errors.New("socket pairs are not to be had on " + runtime.GOOS)

// supported says why workers cannot be had on this system, "" if they can.
func supported() string {
	return fmt.Sprintf("workers need unix sockets and process groups, which are not to be had on %s; run the engine in process", runtime.GOOS)
}

func socketPair() (ours, theirs *os.File, err error) { return nil, nil, errNoPairs }

func sendFile(*net.UnixConn, []byte, *os.File) error { return errNoPairs }

func receive(*net.UnixConn, []byte) (*os.File, error) { return nil, errNoPairs }

func awaitReadable(*os.File) error { return errNoPairs }
