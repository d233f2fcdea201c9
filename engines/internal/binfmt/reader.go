package binfmt

import (
	"fmt"
	"unicode/utf8"

	"forgeone.dev/forgeone/engines"
)

const (
	maxPages      = 65536 // of memory: 4 GiB
	limitsWithMax = 1     // the flag of limits that have a maximum

	// maxFuncLocals is what browsers accept of one function
	// (https://www.w3.org/TR/wasm-js-api-2/#limits). Local variables are written
	// as a count and a type, so nothing else bounds them.
	maxFuncLocals = 50_000
	// maxLocals bounds those of a module; the largest in the field have a tenth.
	maxLocals = 10_000_000
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

// s32 reads a signed number of 32 bits, in two's complement.
func (r *reader) s32() uint32 {
	start := r.pos
	v := r.leb(5)
	if bits := 7 * (r.pos - start); bits < 32 && v>>(bits-1) == 1 {
		v |= 1<<32 - 1<<bits
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
		r.failf("%s", Unknown("value type", byte(t)))
		return 0
	}
}

// Unknown says of a type, by its first byte, that this format has no such form,
// and what it is if WebAssembly 3.0 has it
// (https://webassembly.github.io/spec/core/binary/types.html).
func Unknown(what string, form byte) string {
	switch form {
	case 0x4e, 0x4f, 0x50, 0x5e, 0x5f, // rec, sub final, sub, array, struct
		0x63, 0x64, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e: // references, to array, struct, i31, eq and any
		return fmt.Sprintf("%s %#x of WebAssembly 3.0: the module wants a garbage collector of the engine (wasm-gc), which is not supported; "+
			"build it for linear memory, with a toolchain that brings its own (Go, TinyGo, Rust, C, AssemblyScript)", what, form)
	}
	return fmt.Sprintf("%s of unknown form %#x", what, form)
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
		r.failf("%s", Unknown("type", form))
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

// tableType reads the type of a table and returns its smallest size.
func (r *reader) tableType() uint32 {
	r.valueType()
	return r.limits().Min
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

// constExpr reads a constant expression
// (https://www.w3.org/TR/wasm-core-2/#constant-expressions); if it is an
// i32.const and no more, its value is known.
func (r *reader) constExpr() (value uint32, known bool) {
	for n := 0; r.err == nil; n++ {
		switch op := r.byte(); op {
		case 0x0b: // end
			return value, known && n == 1
		case 0x23, 0xd2: // global.get, ref.func
			r.u32()
		case 0x41: // i32.const
			value, known = r.s32(), true
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
	return 0, false
}

// segment is an active element segment: how many items it puts where.
type segment struct {
	active        bool
	table, length uint32
	offset        uint32
	offsetKnown   bool // it is not if it depends on an imported global
}

// element reads an element segment. Its flag says, bit by bit, whether it is
// not active, whether it names a table (or is declarative), and whether its
// items are expressions (https://www.w3.org/TR/wasm-core-2/#element-section).
func (r *reader) element() (s segment) {
	flag := r.u32()
	if flag > 7 {
		r.failf("element segment of unknown form %d", flag)
		return s
	}
	s.active = flag&1 == 0
	explicit, exprs := flag&2 != 0, flag&4 != 0
	if s.active && explicit {
		s.table = r.u32()
	}
	if s.active {
		s.offset, s.offsetKnown = r.constExpr()
	}
	if !s.active || explicit {
		r.byte() // element kind or reference type
	}
	s.length = r.count()
	for n := s.length; n > 0 && r.err == nil; n-- {
		if exprs {
			r.constExpr()
		} else {
			r.u32()
		}
	}
	return s
}

// function reads the local variables of a function, skips its body, and
// returns how many local variables it has.
func (r *reader) function() (locals int) {
	size := r.count()
	start := r.pos
	body := reader{data: r.bytes(int(size)), base: r.base + start, err: r.err}
	for n := body.count(); n > 0 && body.err == nil; n-- {
		locals += int(body.u32())
		body.valueType()
		if locals > maxFuncLocals {
			body.failf("a function has %d local variables, and at most %d are accepted", locals, maxFuncLocals)
		}
	}
	r.err = body.err
	return locals
}

func (r *reader) dataSegment() {
	flag := r.u32()
	if flag > 2 {
		r.failf("data segment of unknown form %d", flag)
		return
	}
	if flag == 2 {
		r.u32() // memory
	}
	if flag != 1 {
		r.constExpr()
	}
	r.bytes(int(r.count()))
}

// nameSection reads a custom section of the name "name"
// (https://www.w3.org/TR/wasm-core-2/#name-section), and nothing of another.
func (r *reader) nameSection() {
	if r.name() != "name" {
		r.rest()
		return
	}
	for r.err == nil && r.pos < len(r.data) {
		id := r.byte()
		size := r.count()
		start := r.pos
		sub := reader{data: r.bytes(int(size)), base: r.base + start, err: r.err}
		switch id {
		case 0: // the module
			sub.name()
		case 1: // functions
			sub.nameMap()
		case 2: // local variables, by function
			for n := sub.count(); n > 0 && sub.err == nil; n-- {
				sub.u32()
				sub.nameMap()
			}
		default:
			sub.rest()
		}
		if sub.err == nil && sub.pos != len(sub.data) {
			sub.failf("name subsection %d goes on after its last item", id)
		}
		r.err = sub.err
	}
}

func (r *reader) nameMap() {
	for n := r.count(); n > 0 && r.err == nil; n-- {
		r.u32()
		r.name()
	}
}
