package worker

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// A frame is its length (32 bits, little-endian, of what follows), an operation
// and a body. Who sends a frame that wants an answer waits for it, and serves
// what the other side asks in between: a connection is one call stack, spread
// over two processes.
const (
	headerSize = 5
	bufferSize = 4 << 10 // of a connection, in each direction; larger frames get a buffer of their own

	// maxData is how much of a memory one frame carries, in bytes.
	maxData = 1 << 20
	// maxAnswer bounds a frame from the worker, which is not trusted.
	maxAnswer = maxData + 64
	// maxRequest bounds a frame from the kernel: a module is the largest.
	maxRequest = 1 << 30
)

// A protocolError is a frame that the other side must not have sent.
type protocolError struct{ reason string }

func (e *protocolError) Error() string { return "it broke the protocol: " + e.reason }

func violation(format string, args ...any) error {
	return &protocolError{fmt.Sprintf(format, args...)}
}

// conn reads and writes frames. One goroutine uses it at a time.
type conn struct {
	rw    io.ReadWriter
	limit int // of a frame that is read, in bytes

	in   []byte // of bufferSize
	r, w int    // in[r:w] was read and is not used yet

	out  []byte // frames that were not sent yet
	rest []byte // and the end of the last of them
	open int    // offset in out of the frame being written
}

func newConn(rw io.ReadWriter, limit int) conn {
	return conn{rw: rw, limit: limit, in: make([]byte, bufferSize), out: make([]byte, 0, bufferSize)}
}

// begin opens a frame in out; what is appended until end is its body.
func (c *conn) begin(op op) {
	c.open = len(c.out)
	c.out = append(c.out, 0, 0, 0, 0, byte(op))
}

func (c *conn) end() {
	binary.LittleEndian.PutUint32(c.out[c.open:], uint32(len(c.out)-c.open-4))
}

func (c *conn) byte(v byte)     { c.out = append(c.out, v) }
func (c *conn) uint32(v uint32) { c.out = binary.LittleEndian.AppendUint32(c.out, v) }
func (c *conn) uint64(v uint64) { c.out = binary.LittleEndian.AppendUint64(c.out, v) }

func (c *conn) words(ws []uint64) {
	for _, w := range ws {
		c.uint64(w)
	}
}

func (c *conn) text(s string) {
	c.uint32(uint32(len(s)))
	c.out = append(c.out, s...)
}

func (c *conn) bool(v bool) {
	if v {
		c.byte(1)
	} else {
		c.byte(0)
	}
}

// answer writes a frame without a body.
func (c *conn) answer(op op) {
	c.begin(op)
	c.end()
}

// answerWord writes a frame of one word.
func (c *conn) answerWord(v uint64) {
	c.begin(opWord)
	c.uint64(v)
	c.end()
}

// endWith is end for a frame whose body goes on with rest, which is not copied
// if it is long and must not change until flush.
func (c *conn) endWith(rest []byte) {
	if len(rest) <= bufferSize {
		c.out = append(c.out, rest...)
		c.end()
		return
	}
	binary.LittleEndian.PutUint32(c.out[c.open:], uint32(len(c.out)-c.open-4+len(rest)))
	c.rest = rest
}

// flush sends what was written.
func (c *conn) flush() error {
	_, err := c.rw.Write(c.out)
	if err == nil && c.rest != nil {
		_, err = c.rw.Write(c.rest)
	}
	if cap(c.out) > 16*bufferSize {
		c.out = make([]byte, 0, bufferSize)
	}
	c.out, c.rest = c.out[:0], nil
	return err
}

// fill reads until n bytes are in the buffer, which must have room for them.
func (c *conn) fill(n int) error {
	if c.w-c.r >= n {
		return nil
	}
	if c.r > 0 && (c.r == c.w || len(c.in)-c.r < n) {
		c.w = copy(c.in, c.in[c.r:c.w])
		c.r = 0
	}
	for c.w-c.r < n {
		m, err := c.rw.Read(c.in[c.w:])
		c.w += m
		if err != nil && c.w-c.r < n {
			if err == io.EOF && c.w > c.r {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// next reads a frame's header: its operation and the length of its body, which
// must then be read.
func (c *conn) next() (op, int, error) {
	if err := c.fill(headerSize); err != nil {
		return 0, 0, err
	}
	h := c.in[c.r:]
	n := binary.LittleEndian.Uint32(h)
	if n < 1 || uint64(n) > uint64(c.limit) {
		return 0, 0, violation("a frame of %d bytes, where 1 to %d are allowed", n, c.limit)
	}
	c.r += headerSize
	return op(h[4]), int(n) - 1, nil
}

// body reads n bytes. They are valid until the next read.
func (c *conn) body(n int) ([]byte, error) {
	if n <= len(c.in) {
		if err := c.fill(n); err != nil {
			return nil, unexpected(err)
		}
		b := c.in[c.r : c.r+n]
		c.r += n
		return b, nil
	}
	// Room is made as the bytes arrive: an announced length costs nothing.
	var b []byte
	for len(b) < n {
		step := min(n-len(b), max(len(b), bufferSize))
		b = slices.Grow(b, step)
		if err := c.readInto(b[len(b) : len(b)+step]); err != nil {
			return nil, err
		}
		b = b[:len(b)+step]
	}
	return b, nil
}

// readInto reads len(dst) bytes of a body.
func (c *conn) readInto(dst []byte) error {
	n := copy(dst, c.in[c.r:c.w])
	c.r += n
	_, err := io.ReadFull(c.rw, dst[n:])
	return unexpected(err)
}

// unexpected is err of a read inside a frame, where the end of the stream is none.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// idle reports whether all that was read was used.
func (c *conn) idle() bool { return c.r == c.w }

// decoder takes a body apart. After a mistake it yields zeros; err says that
// there was one.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.b, d.bad = nil, true
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	if b := d.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if b := d.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) bool() bool { return d.byte() != 0 }

func (d *decoder) text() string { return string(d.take(int(d.uint32()))) }

// words fills dst.
func (d *decoder) words(dst []uint64) {
	for i := range dst {
		dst[i] = d.uint64()
	}
}

// rest is all that is left.
func (d *decoder) rest() []byte { return d.take(len(d.b)) }

// done reports an error unless the body was taken apart exactly.
func (d *decoder) done(op op) error {
	if d.bad || len(d.b) > 0 {
		return violation("a malformed frame of operation %d", op)
	}
	return nil
}
