package syscalls

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
)

// Limits of network syscalls.
const (
	MaxReceive     = 64 << 10         // bytes that one net_recv returns
	MaxSend        = 16 << 20         // bytes that one net_send takes
	MaxNetWait     = 10 * time.Minute // that one syscall waits, where its call has more time
	connectTimeout = 10 * time.Second // for each address
)

// Codes of Linux for what goes wrong on a network.
const (
	codePipe        = 32  // EPIPE
	codeMessageSize = 90  // EMSGSIZE
	codeAddrInUse   = 98  // EADDRINUSE
	codeAddrNotHere = 99  // EADDRNOTAVAIL
	codeNetUnreach  = 101 // ENETUNREACH
	codeReset       = 104 // ECONNRESET
	codeRefused     = 111 // ECONNREFUSED
	codeHostUnreach = 113 // EHOSTUNREACH
)

func (n network) registrations() []abi.Registration {
	return []abi.Registration{
		{
			Name: "net_connect", Args: []string{"protocol", "host", "port"}, MinTrust: capability.Standard, World: true,
			Doc: "Connect by `tcp` or `udp` to a name or an address. Returns a handle, 8 bytes little-endian. A name is looked up once, and the connection goes to an address that was decided on.",
			Resolve: func(ctx context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
				e, err := parseEndpoint(sc.Args[0], sc.Args[1], sc.Args[2])
				if err != nil {
					return abi.Resolution{}, err
				}
				return n.resolve(ctx, sc, &e), nil
			},
			Timeout: MaxNetWait,
			Handler: connect,
		},
		{
			Name: "net_send", MinTrust: capability.Standard, World: true, Fold: true, Timeout: MaxNetWait,
			Doc:     fmt.Sprintf("Send the payload, at most %d bytes, on a connection; by udp it is one datagram. Returns how many bytes were sent, decimal.", MaxSend),
			Resolve: resolveConn, Handler: send,
		},
		{
			Name: "net_recv", Args: []string{"n", "wait..."}, MinTrust: capability.Standard, Timeout: MaxNetWait,
			Doc: fmt.Sprintf("Receive up to n bytes, at most %d, from a connection; by udp one datagram, of which what is beyond n is lost. Waits until there are some, or as long as wait says, in ns: it then fails with EAGAIN (%d). "+
				"Returns none when the other side has ended.", MaxReceive, codeAgain),
			Resolve: atMost(2, resolveConn), Handler: receiveBytes,
		},
		{
			Name: "net_listen", Args: []string{"protocol", "address", "port"}, MinTrust: capability.Trusted, World: true,
			Doc:     "Listen by `tcp` at an address of the host, not a name; at port 0 at one that is free. Returns a handle, 8 bytes little-endian, then the address and port as text.",
			Resolve: resolveListen, Handler: listen,
		},
		{
			Name: "net_accept", Args: []string{"wait..."}, MinTrust: capability.Trusted, World: true, Timeout: MaxNetWait,
			Doc:     fmt.Sprintf("Accept a connection at a listener. Waits for one, or as long as wait says, in ns: it then fails with EAGAIN (%d). Returns a handle, 8 bytes little-endian, then the address and port of the other side as text.", codeAgain),
			Resolve: atMost(1, resolveListener), Handler: accept,
		},
		{
			Name: "net_close", MinTrust: capability.Standard, Release: true,
			Doc:     "Close a connection or a listener.",
			Resolve: resolveSocket,
			Handler: func(_ context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
				return nil, netError(sc.CloseHandle())
			},
		},
	}
}

// dial connects to the first address of the endpoint that answers.
func (e *endpoint) dial(ctx context.Context) (net.Conn, error) {
	err := fmt.Errorf("%s has no address", e.host)
	for _, to := range e.addrs {
		var c net.Conn
		d := net.Dialer{Timeout: connectTimeout}
		// An address in its usual form is never looked up.
		if c, err = d.DialContext(ctx, e.proto, to.String()); err == nil {
			return c, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return nil, err
}

func connect(ctx context.Context, sc *abi.SyscallContext, r *abi.Resolution) ([]byte, error) {
	c, err := r.Object.(*endpoint).dial(ctx)
	if err != nil {
		return nil, netError(err)
	}
	return openHandle(sc, newConn(c), r.Resources[0])
}

// openHandle opens a handle and returns it as a plugin is told of it.
func openHandle(sc *abi.SyscallContext, object io.Closer, uri string) ([]byte, error) {
	h, err := sc.Open(object, uri)
	if errors.Is(err, abi.ErrHandles) {
		return nil, abi.Fail(abi.CodeTooMany, "%v: at most %d; close some", err, abi.MaxHandles)
	}
	if err != nil {
		return nil, err
	}
	return binary.LittleEndian.AppendUint64(nil, uint64(h)), nil
}

// turn is whose turn it is to wait at one end of a socket: the deadlines of a
// socket, by which a wait is ended, are all its users'.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// during runs f, which waits, in its turn and until ctx ends. deadline sets when
// f gives up.
func (t turn) during(ctx context.Context, deadline func(time.Time) error, f func() error) error {
	select {
	case t <- struct{}{}:
		defer func() { <-t }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := deadline(time.Time{}); err != nil {
		return err
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		_ = deadline(time.Unix(1, 0)) // long ago; a closed socket ends the wait as well
	})
	err := f()
	if !stop() {
		<-ended // lest it strikes who is next
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// socket is what a handle of this family names.
type socket interface{ socket() }

func (*conn) socket()     {}
func (*listener) socket() {}

// conn is a connection that a plugin has open.
type conn struct {
	net.Conn
	in, out turn
}

func newConn(c net.Conn) *conn { return &conn{c, newTurn(), newTurn()} }

// listener is a listener that a plugin has open.
type listener struct {
	*net.TCPListener
	in turn
}

// borrowed is what a handle names while a request uses it: the gate closes what
// a request resolved to, and the socket stays open after it.
type borrowed[T any] struct{ it T }

// ofHandle resolves a request on an open socket, whose resource is the one that
// it was opened for.
func ofHandle[T any](sc *abi.SyscallContext, what string) (abi.Resolution, error) {
	object, uri, ok := sc.Object()
	it, is := object.(T)
	if !ok || !is {
		return abi.Resolution{Err: abi.Fail(abi.CodeBadHandle, "handle %#x is no open %s of this plugin; where its state is pristine, a handle ends with its call", uint64(sc.Handle), what)}, nil
	}
	res := resource(uri)
	res.Object = borrowed[T]{it}
	return res, nil
}

func resolveConn(_ context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
	return ofHandle[*conn](sc, "connection")
}

func resolveListener(_ context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
	return ofHandle[*listener](sc, "listener")
}

// resolveSocket resolves a request on a connection or a listener.
func resolveSocket(_ context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
	return ofHandle[socket](sc, "socket")
}

func send(ctx context.Context, sc *abi.SyscallContext, r *abi.Resolution) ([]byte, error) {
	if err := tooLarge("payload", len(sc.Payload), MaxSend); err != nil {
		return nil, err
	}
	c := r.Object.(borrowed[*conn]).it
	var n int
	err := c.out.during(ctx, c.SetWriteDeadline, func() (err error) {
		n, err = c.Write(sc.Payload)
		return err
	})
	if err != nil && n == 0 {
		return nil, netError(err)
	}
	return strconv.AppendInt(nil, int64(n), 10), nil // the next one tells why it was not all
}

// waiting is ctx for as long as an argument says, in ns; ctx itself if it was
// left out. The returned function must be called.
func waiting(ctx context.Context, sc *abi.SyscallContext, i int) (context.Context, context.CancelFunc, error) {
	if i >= len(sc.Args) {
		return ctx, func() {}, nil
	}
	wait, err := count("wait", sc.Args[i])
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(wait))
	return ctx, cancel, nil
}

func receiveBytes(ctx context.Context, sc *abi.SyscallContext, r *abi.Resolution) ([]byte, error) {
	n, err := count("n", sc.Args[0])
	if err != nil {
		return nil, err
	}
	if err := tooLarge("n", n, MaxReceive); err != nil {
		return nil, err
	}
	limited, done, err := waiting(ctx, sc, 1)
	if err != nil {
		return nil, err
	}
	defer done()
	c := r.Object.(borrowed[*conn]).it
	p := make([]byte, n)
	got := 0
	err = c.in.during(limited, c.SetReadDeadline, func() (err error) {
		got, err = c.Read(p)
		return err
	})
	switch {
	case got > 0, err == nil, errors.Is(err, io.EOF):
		return p[:got], nil
	case limited.Err() != nil && ctx.Err() == nil:
		return nil, abi.Fail(codeAgain, "nothing to receive yet")
	}
	return nil, netError(err)
}

func resolveListen(_ context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
	if sc.Args[0] != "tcp" {
		return abi.Resolution{}, fmt.Errorf("protocol %.16q: want tcp", sc.Args[0])
	}
	addr, err := parseAddr(sc.Args[1])
	if err != nil {
		return abi.Resolution{}, fmt.Errorf("address %.64q: want an address of the host, 0.0.0.0 or :: for all", sc.Args[1])
	}
	port, err := strconv.ParseUint(sc.Args[2], 10, 16)
	if err != nil {
		return abi.Resolution{}, fmt.Errorf("port %.16q: want a number from 0 to 65535", sc.Args[2])
	}
	at := netip.AddrPortFrom(addr, uint16(port))
	res := resource("net://listen/tcp/" + at.String())
	res.Object = at
	return res, nil
}

func listen(ctx context.Context, sc *abi.SyscallContext, r *abi.Resolution) ([]byte, error) {
	at := r.Object.(netip.AddrPort)
	proto := "tcp6" // which with :: serves IPv4 too, where "tcp" would listen at both for 0.0.0.0
	if at.Addr().Is4() {
		proto = "tcp4"
	}
	l, err := new(net.ListenConfig).Listen(ctx, proto, at.String())
	if err != nil {
		return nil, netError(err)
	}
	h, err := openHandle(sc, &listener{l.(*net.TCPListener), newTurn()}, r.Resources[0])
	if err != nil {
		return nil, err
	}
	return append(h, l.Addr().String()...), nil
}

func accept(ctx context.Context, sc *abi.SyscallContext, r *abi.Resolution) ([]byte, error) {
	limited, done, err := waiting(ctx, sc, 0)
	if err != nil {
		return nil, err
	}
	defer done()
	l := r.Object.(borrowed[*listener]).it
	var c net.Conn
	err = l.in.during(limited, l.SetDeadline, func() (err error) {
		c, err = l.Accept()
		return err
	})
	switch {
	case err == nil:
	case limited.Err() != nil && ctx.Err() == nil:
		return nil, abi.Fail(codeAgain, "no connection yet")
	default:
		return nil, netError(err)
	}
	h, err := openHandle(sc, newConn(c), r.Resources[0])
	if err != nil {
		return nil, err
	}
	return append(h, c.RemoteAddr().String()...), nil
}

// netError gives the failures of a network their codes.
func netError(err error) error {
	for _, known := range []struct {
		errno syscall.Errno
		code  int32
	}{
		{syscall.ECONNREFUSED, codeRefused}, {syscall.ECONNRESET, codeReset}, {syscall.EPIPE, codePipe},
		{syscall.ENETUNREACH, codeNetUnreach}, {syscall.EHOSTUNREACH, codeHostUnreach}, {syscall.EMSGSIZE, codeMessageSize},
		{syscall.EADDRINUSE, codeAddrInUse}, {syscall.EADDRNOTAVAIL, codeAddrNotHere},
	} {
		if errors.Is(err, known.errno) {
			return abi.Fail(known.code, "%v", err)
		}
	}
	var timeout net.Error
	switch {
	case errors.Is(err, net.ErrClosed):
		return abi.Fail(abi.CodeBadHandle, "the socket was closed")
	case errors.As(err, &timeout) && timeout.Timeout():
		return abi.Fail(abi.CodeTimeout, "%v", err)
	}
	return err
}
