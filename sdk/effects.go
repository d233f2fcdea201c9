package sdk

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
)

// HTTPResponse is the answer to an HTTP request, which may be a redirect: the
// kernel follows none, so that each URL is decided by itself.
type HTTPResponse struct {
	Status  int
	Headers map[string][]string // by canonical name, "Content-Type"
	Body    []byte
}

// httpHead is the first line of what http_request takes and returns.
type httpHead struct {
	Status  int                 `json:"status,omitempty"`
	Headers map[string][]string `json:"headers,omitempty"`
}

// Fetch makes an HTTP request. headers may be nil; those that frame a message,
// such as Content-Length and Host, are the kernel's to write.
func (k *Kernel) Fetch(ctx context.Context, method, url string, headers map[string][]string, body []byte) (*HTTPResponse, error) {
	line, err := json.Marshal(httpHead{Headers: headers})
	if err != nil {
		return nil, err
	}
	data, err := k.Syscall(ctx, "http_request", []string{method, url}, 0, append(append(line, '\n'), body...))
	if err != nil {
		return nil, err
	}
	line, rest, _ := bytes.Cut(data, []byte{'\n'})
	var head httpHead
	if err := json.Unmarshal(line, &head); err != nil {
		return nil, fmt.Errorf("http_request: the kernel's answer: %w", err)
	}
	return &HTTPResponse{Status: head.Status, Headers: head.Headers, Body: rest}, nil
}

// Conn is a connection that the plugin has open.
type Conn struct {
	k      *Kernel
	ctx    context.Context // of the call that opened it, which it does not outlive
	handle uint64
}

// maxReceive is how much one net_recv returns, in bytes.
const maxReceive = 64 << 10

// Connect connects by "tcp" or "udp" to a name or an address. The connection
// lives as long as ctx, and is closed with [Conn.Close].
func (k *Kernel) Connect(ctx context.Context, protocol, host string, port uint16) (*Conn, error) {
	b, err := k.Syscall(ctx, "net_connect", []string{protocol, host, strconv.Itoa(int(port))}, 0, nil)
	if err != nil {
		return nil, err
	}
	return k.conn(ctx, b)
}

func (k *Kernel) conn(ctx context.Context, b []byte) (*Conn, error) {
	if len(b) < 8 {
		return nil, fmt.Errorf("the kernel answered %d bytes, want a handle of 8", len(b))
	}
	return &Conn{k: k, ctx: ctx, handle: binary.LittleEndian.Uint64(b)}, nil
}

// Read implements io.Reader; by udp it reads one datagram.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	b, err := c.k.Syscall(c.ctx, "net_recv", []string{strconv.Itoa(min(len(p), maxReceive))}, c.handle, nil)
	if err == nil && len(b) == 0 {
		err = io.EOF
	}
	return copy(p, b), err
}

// Write implements io.Writer; by udp it sends one datagram.
func (c *Conn) Write(p []byte) (int, error) {
	var n int
	for n < len(p) {
		part := p[n:min(len(p), n+chunk)]
		b, err := c.k.Syscall(c.ctx, "net_send", nil, c.handle, part)
		if err != nil {
			return n, err
		}
		w, err := strconv.Atoi(string(b))
		if err != nil || w <= 0 || w > len(part) {
			return n, io.ErrShortWrite
		}
		n += w
	}
	return n, nil
}

// Close closes the connection.
func (c *Conn) Close() error {
	_, err := c.k.Syscall(c.ctx, "net_close", nil, c.handle, nil)
	return err
}

// Listener takes connections.
type Listener struct {
	Conn        // Close closes it; it is neither read nor written
	Addr string // address and port
}

// Listen listens by "tcp" at an address of the host; at port 0 at one that is free.
func (k *Kernel) Listen(ctx context.Context, protocol, address string, port uint16) (*Listener, error) {
	b, err := k.Syscall(ctx, "net_listen", []string{protocol, address, strconv.Itoa(int(port))}, 0, nil)
	if err != nil {
		return nil, err
	}
	c, err := k.conn(ctx, b)
	if err != nil {
		return nil, err
	}
	return &Listener{*c, string(b[8:])}, nil
}

// Accept waits for a connection, and returns it with the address and port of
// the other side.
func (l *Listener) Accept() (*Conn, string, error) {
	b, err := l.k.Syscall(l.ctx, "net_accept", nil, l.handle, nil)
	if err != nil {
		return nil, "", err
	}
	c, err := l.k.conn(l.ctx, b)
	if err != nil {
		return nil, "", err
	}
	return c, string(b[8:]), nil
}

// Secret is a secret that the kernel's configuration names. It is never on
// record; neither let it into a log line.
func (k *Kernel) Secret(ctx context.Context, name string) ([]byte, error) {
	return k.Syscall(ctx, "secret_get", []string{name}, 0, nil)
}

// Sign signs a message with a key that the kernel's configuration names
// (Ed25519), which the plugin never sees.
func (k *Kernel) Sign(ctx context.Context, key string, message []byte) ([]byte, error) {
	return k.Syscall(ctx, "crypto_sign", []string{key}, 0, message)
}

// Verify reports whether a signature of a message holds, by a key that the
// kernel's configuration names (Ed25519).
func (k *Kernel) Verify(ctx context.Context, key string, message, signature []byte) (bool, error) {
	const size = 64 // RFC 8032, section 5.1.6
	if len(signature) != size {
		return false, nil
	}
	b, err := k.Syscall(ctx, "crypto_verify", []string{key}, 0, append(signature[:size:size], message...))
	return err == nil && string(b) == "1", err
}

// CallPlugin calls a function of another plugin, as capabilities.apis grants. A
// failure of the function is a *[SyscallError] whose Context has its "code" and
// "message".
func (k *Kernel) CallPlugin(ctx context.Context, plugin, function string, input []byte) ([]byte, error) {
	return k.Syscall(ctx, "plugin_call", []string{plugin, function}, 0, input)
}
