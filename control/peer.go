package control

import (
	"context"
	"fmt"
	"net"
	"os"
)

// peer is who is at the other end of a connection, as the operating system
// says.
type peer struct {
	uid int
	err error // why it may not use the socket
}

type peerKey struct{}

// withPeer puts the peer of a connection into the context of its requests.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, peerKey{}, identify(c))
}

// peerOf is the peer of a request. One that is not known may do nothing.
func peerOf(ctx context.Context) peer {
	if p, ok := ctx.Value(peerKey{}).(peer); ok {
		return p
	}
	return peer{err: fmt.Errorf("the peer of the connection is not known")}
}

func identify(c net.Conn) peer {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return peer{err: fmt.Errorf("not a unix socket: %T", c)}
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return peer{err: err}
	}
	var uid int
	var credErr error
	if err := raw.Control(func(fd uintptr) { uid, credErr = peerUID(int(fd)) }); err != nil { //nolint:gosec // a descriptor fits
		return peer{err: err}
	}
	if credErr != nil {
		return peer{err: fmt.Errorf("peer credentials: %w", credErr)}
	}
	return peer{uid: uid, err: admit(uid, os.Geteuid())}
}

// admit lets in the kernel's own user and root.
func admit(uid, own int) error {
	if uid == own || uid == 0 {
		return nil
	}
	return fmt.Errorf("user %d may not control a kernel of user %d: only that user and root may", uid, own)
}
