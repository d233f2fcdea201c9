package meter

import (
	"encoding/binary"
	"fmt"
)

// reader reads the primitives of the binary format
// (https://www.w3.org/TR/wasm-core-2/#binary-format). The first error sticks:
// everything read after it is zero, so a caller checks err once.
type reader struct {
	data []byte
	pos  int
	base int // offset of data in the module, for messages
	err  error
}

func (r *reader) failf(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("at byte %#x: "+format, append([]any{r.base + r.pos}, args...)...)
	}
}

func (r *reader) more() bool { return r.err == nil && r.pos < len(r.data) }

func (r *reader) bytes(n uint32) []byte {
	if r.err != nil {
		return nil
	}
	if int64(n) > int64(len(r.data)-r.pos) {
		r.failf("unexpected end of data")
		return nil
	}
	b := r.data[r.pos : r.pos+int(n)]
	r.pos += int(n)
	return b
}

func (r *reader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

// sub is a reader of the next n bytes.
func (r *reader) sub(n uint32) *reader {
	start := r.base + r.pos
	return &reader{data: r.bytes(n), base: start, err: r.err}
}

func (r *reader) u32() uint32 {
	var v uint64
	for shift := 0; shift < 35; shift += 7 {
		b := r.byte()
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			if v > 1<<32-1 {
				r.failf("number %d does not fit in 32 bits", v)
				return 0
			}
			return uint32(v)
		}
	}
	r.failf("number of more than 5 bytes")
	return 0
}

// signed reads a signed number of at most bits bits.
func (r *reader) signed(bits int) int64 {
	var v int64
	for shift := 0; shift < bits; shift += 7 {
		b := r.byte()
		v |= int64(b&0x7f) << shift
		if b < 0x80 {
			if shift+7 < 64 && b&0x40 != 0 {
				v |= -1 << (shift + 7)
			}
			if over := 64 - bits; v<<over>>over != v {
				r.failf("number %d does not fit in %d bits", v, bits)
				return 0
			}
			return v
		}
	}
	r.failf("number of more than %d bits", bits)
	return 0
}

// count reads the length of a vector. Each item takes a byte at least, so a
// length beyond what is left is refused before anything is allocated for it.
func (r *reader) count() uint32 {
	n := r.u32()
	if int64(n) > int64(len(r.data)-r.pos) {
		r.failf("%d items are announced and %d bytes are left", n, len(r.data)-r.pos)
		return 0
	}
	return n
}

// index reads an index of a space of n; what names the space.
func (r *reader) index(n int, what string) uint32 {
	i := r.u32()
	if int64(i) >= int64(n) {
		r.failf("%s %d is named, and there are %d", what, i, n)
		return 0
	}
	return i
}

func (r *reader) name() string { return string(r.bytes(r.count())) }

// limits are the bounds of a memory, in pages, or of a table, in entries.
type limits struct {
	min, max uint32
	hasMax   bool
}

func (r *reader) limits() limits {
	flag := r.byte()
	if flag > 1 {
		r.failf("limits of unknown form %#x (shared and 64-bit memories are not part of WebAssembly 2.0)", flag)
	}
	l := limits{min: r.u32(), hasMax: flag == 1}
	if l.hasMax {
		l.max = r.u32()
	}
	return l
}

// clamp lowers the maximum to limit.
func (l *limits) clamp(limit uint32) {
	if !l.hasMax || l.max > limit {
		l.max, l.hasMax = limit, true
	}
}

func (l limits) encode(dst []byte) []byte {
	if !l.hasMax {
		return uleb(append(dst, 0), l.min)
	}
	return uleb(uleb(append(dst, 1), l.min), l.max)
}

func uleb(dst []byte, v uint32) []byte { return binary.AppendUvarint(dst, uint64(v)) }

func sleb(dst []byte, v int64) []byte {
	for {
		b := byte(v & 0x7f)
		v >>= 7
		if v == 0 && b&0x40 == 0 || v == -1 && b&0x40 != 0 {
			return append(dst, b)
		}
		dst = append(dst, b|0x80)
	}
}

// str appends a vector of bytes.
func str[T string | []byte](dst []byte, s T) []byte { return append(uleb(dst, uint32(len(s))), s...) }
