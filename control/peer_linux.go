package control

import "golang.org/x/sys/unix"

// maxSocketPath is the longest path a unix socket can have, in bytes
// (sun_path without its final NUL, unix(7)).
const maxSocketPath = 107

// unsupported is why there is no control socket on this system.
const unsupported = ""

func peerUID(fd int) (int, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, err
	}
	return int(cred.Uid), nil
}
