package binfmt

import (
	"fmt"
	"unicode/utf8"

	"forgeone.dev/forgeone/engines"
)

const (
	maxPages      = 65536 // of memory: 4 GiB
	limitsWithMax = 1     // the flag of limits that have a maximum
)

// reader reads the primitives of the binary format. The first error sticks:
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

func (r *reader) byte() byte {
	b := r.bytes(1)
	if b == nil {
		return 0
	}
	return b[0]
}

func (r *reader) bytes(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > len(r.data)-r.pos {
		r.failf("unexpected end of data")
		return nil
	}
	b := r.data[r.pos : r.pos+n]
	r.pos += n
	return b
}

// rest reads all that is left.
func (r *reader) rest() []byte { return r.bytes(len(r.data) - r.pos) }

// leb skips or reads one LEB128 number of at most max bytes and returns its low
// 64 bits, unsigned.
func (r *reader) leb(max int) uint64 {
	var v uint64
	for i := range max {
		b := r.byte()
		v |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			return v
		}
	}
	r.failf("number of more than %d bytes", max)
	return 0
}

func (r *reader) u32() uint32 {
	v := r.leb(5)
	if v > 1<<32-1 {
		r.failf("number %d does not fit in 32 bits", v)
		return 0
	}
	return uint32(v)
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

func (r *reader) name() string {
	b := r.bytes(int(r.count()))
	if !utf8.Valid(b) {
		r.failf("a name is not UTF-8")
		return ""
	}
	return string(b)
}

func (r *reader) valueType() engines.ValueType {
	switch t := engines.ValueType(r.byte()); t {
	case engines.I32, engines.I64, engines.F32, engines.F64, engines.V128, engines.FuncRef, engines.ExternRef:
		return t
	default:
		r.failf("unknown value type %#x", byte(t))
		return 0
	}
}

func (r *reader) valueTypes() []engines.ValueType {
	n := r.count()
	ts := make([]engines.ValueType, 0, n)
	for ; n > 0 && r.err == nil; n-- {
		ts = append(ts, r.valueType())
	}
	return ts
}

func (r *reader) funcType() engines.FuncType {
	if form := r.byte(); form != 0x60 {
		r.failf("type of unknown form %#x", form)
	}
	return engines.FuncType{Params: r.valueTypes(), Results: r.valueTypes()}
}

func (r *reader) limits() engines.MemoryType {
	flag := r.byte()
	if flag > limitsWithMax {
		r.failf("limits of unknown form %#x (shared and 64-bit memories are not part of WebAssembly 2.0)", flag)
	}
	m := engines.MemoryType{Min: r.u32(), HasMax: flag == limitsWithMax}
	if m.HasMax {
		m.Max = r.u32()
	}
	return m
}

// memoryType reads the limits of a memory, which end at 4 GiB.
func (r *reader) memoryType() engines.MemoryType {
	m := r.limits()
	if max(m.Min, m.Max) > maxPages {
		r.failf("memory of %d pages, and at most %d are addressable", max(m.Min, m.Max), maxPages)
	}
	return m
}

func (r *reader) tableType() {
	r.valueType()
	r.limits()
}

func (r *reader) globalType() engines.GlobalType {
	g := engines.GlobalType{Value: r.valueType()}
	mutability := r.byte()
	if mutability > 1 {
		r.failf("global of unknown mutability %#x", mutability)
	}
	g.Mutable = mutability == 1
	return g
}

// constExpr skips a constant expression
// (https://www.w3.org/TR/wasm-core-2/#constant-expressions).
func (r *reader) constExpr() {
	for r.err == nil {
		switch op := r.byte(); op {
		case 0x0b: // end
			return
		case 0x23, 0xd2: // global.get, ref.func
			r.u32()
		case 0x41: // i32.const
			r.leb(5)
		case 0x42: // i64.const
			r.leb(10)
		case 0x43: // f32.const
			r.bytes(4)
		case 0x44: // f64.const
			r.bytes(8)
		case 0xd0: // ref.null
			r.valueType()
		case 0xfd: // v128.const
			if sub := r.u32(); sub != 12 {
				r.failf("vector instruction %d in a constant expression", sub)
			}
			r.bytes(16)
		default:
			r.failf("instruction %#x in a constant expression", op)
		}
	}
}
