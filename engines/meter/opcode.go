package meter

import "fmt"

// opcode is an instruction's first byte, or for one with a prefix, the prefix
// and the number after it.
type opcode uint32

const (
	prefixMisc = 0xfc
	prefixSIMD = 0xfd
)

// misc and simd are the instructions behind the two prefixes of WebAssembly 2.0.
const (
	misc opcode = prefixMisc << 16
	simd opcode = prefixSIMD << 16
)

// The opcodes that rewriting looks at
// (https://www.w3.org/TR/wasm-core-2/#a7-index-of-instructions).
const (
	opUnreachable  opcode = 0x00
	opBlock        opcode = 0x02
	opLoop         opcode = 0x03
	opIf           opcode = 0x04
	opElse         opcode = 0x05
	opEnd          opcode = 0x0b
	opBr           opcode = 0x0c
	opBrIf         opcode = 0x0d
	opBrTable      opcode = 0x0e
	opReturn       opcode = 0x0f
	opCall         opcode = 0x10
	opCallIndirect opcode = 0x11
	opLocalGet     opcode = 0x20
	opLocalSet     opcode = 0x21
	opLocalTee     opcode = 0x22
	opGlobalGet    opcode = 0x23
	opGlobalSet    opcode = 0x24
	opTableSet     opcode = 0x26
	opMemoryGrow   opcode = 0x40
	opI32Const     opcode = 0x41
	opRefFunc      opcode = 0xd2

	opMemoryInit opcode = misc | 8
	opDataDrop   opcode = misc | 9
	opMemoryCopy opcode = misc | 10
	opMemoryFill opcode = misc | 11
	opTableInit  opcode = misc | 12
	opElemDrop   opcode = misc | 13
	opTableCopy  opcode = misc | 14
	opTableGrow  opcode = misc | 15
	opTableSize  opcode = misc | 16
	opTableFill  opcode = misc | 17
)

// immediate is a kind of immediate argument.
type immediate byte

const (
	immBlockType immediate = iota + 1
	immLabel
	immLabels
	immFunc
	immType
	immIndex // of a local, which is the same after rewriting
	immGlobal
	immTable
	immMemory
	immData
	immElem
	immMemArg
	immI32
	immI64
	imm1  // a lane
	imm4  // an f32
	imm8  // an f64
	imm16 // a v128, or 16 lanes
	immRefType
	immTypes
)

const (
	maxAlign  = 4       // 2^4 bytes, of a v128
	maxLabels = 100_000 // of a br_table; the largest in the field have a tenth
)

// instructions are the opcodes of WebAssembly 2.0 with their immediates, as
// ranges in order. An opcode that is not here is not rewritten, and a module
// that has one is refused.
var instructions = []struct {
	first, last opcode
	immediates  []immediate
}{
	{0x00, 0x01, nil}, // unreachable, nop
	{0x02, 0x04, []immediate{immBlockType}},
	{0x05, 0x05, nil},                   // else
	{0x0b, 0x0b, nil},                   // end
	{0x0c, 0x0d, []immediate{immLabel}}, // br, br_if
	{0x0e, 0x0e, []immediate{immLabels}},
	{0x0f, 0x0f, nil}, // return
	{0x10, 0x10, []immediate{immFunc}},
	{0x11, 0x11, []immediate{immType, immTable}},
	{0x1a, 0x1b, nil}, // drop, select
	{0x1c, 0x1c, []immediate{immTypes}},
	{0x20, 0x22, []immediate{immIndex}},  // local.get, set, tee
	{0x23, 0x24, []immediate{immGlobal}}, // global.get, set
	{0x25, 0x26, []immediate{immTable}},  // table.get, set
	{0x28, 0x3e, []immediate{immMemArg}}, // loads and stores
	{0x3f, 0x40, []immediate{immMemory}}, // memory.size, grow
	{0x41, 0x41, []immediate{immI32}},
	{0x42, 0x42, []immediate{immI64}},
	{0x43, 0x43, []immediate{imm4}},
	{0x44, 0x44, []immediate{imm8}},
	{0x45, 0xc4, nil}, // comparisons, arithmetic, conversions, sign extension
	{0xd0, 0xd0, []immediate{immRefType}},
	{0xd1, 0xd1, nil}, // ref.is_null
	{0xd2, 0xd2, []immediate{immFunc}},

	{misc, misc | 7, nil}, // saturating conversions
	{misc | 8, misc | 8, []immediate{immData, immMemory}},
	{misc | 9, misc | 9, []immediate{immData}},
	{misc | 10, misc | 10, []immediate{immMemory, immMemory}},
	{misc | 11, misc | 11, []immediate{immMemory}},
	{misc | 12, misc | 12, []immediate{immElem, immTable}},
	{misc | 13, misc | 13, []immediate{immElem}},
	{misc | 14, misc | 14, []immediate{immTable, immTable}},
	{misc | 15, misc | 17, []immediate{immTable}}, // table.grow, size, fill

	{simd, simd | 11, []immediate{immMemArg}},
	{simd | 12, simd | 13, []immediate{imm16}}, // v128.const, i8x16.shuffle
	{simd | 14, simd | 20, nil},
	{simd | 21, simd | 34, []immediate{imm1}}, // extract and replace lane
	{simd | 35, simd | 83, nil},
	{simd | 84, simd | 91, []immediate{immMemArg, imm1}}, // load and store lane
	{simd | 92, simd | 93, []immediate{immMemArg}},       // load and zero
	{simd | 94, simd | 153, nil},
	{simd | 155, simd | 161, nil},
	{simd | 163, simd | 164, nil},
	{simd | 167, simd | 174, nil},
	{simd | 177, simd | 177, nil},
	{simd | 181, simd | 186, nil},
	{simd | 188, simd | 193, nil},
	{simd | 195, simd | 196, nil},
	{simd | 199, simd | 206, nil},
	{simd | 209, simd | 209, nil},
	{simd | 213, simd | 225, nil},
	{simd | 227, simd | 237, nil},
	{simd | 239, simd | 255, nil},
}

// proposals name what is behind opcodes that are not in WebAssembly 2.0.
var proposals = []struct {
	first, last opcode
	name        string
}{
	{0x06, 0x0a, "exception handling"},
	{0x12, 0x13, "tail calls"},
	{0x14, 0x15, "typed function references"},
	{0x18, 0x19, "exception handling"},
	{0x1f, 0x1f, "exception handling"},
	{0xd3, 0xd6, "garbage collection"},
	{0xfb, 0xfb, "garbage collection"},
	{0xfe, 0xfe, "threads"},
	{misc | 18, misc | 18, "memory control"},
	{misc | 19, misc | 22, "wide arithmetic"},
	{simd | 0x100, simd | 0x12f, "relaxed SIMD"},
}

func (op opcode) String() string {
	s := fmt.Sprintf("%#02x", uint32(op))
	if op > 0xff {
		s = fmt.Sprintf("%#02x %d", uint32(op>>16), uint32(op&0xffff))
	}
	for _, p := range proposals {
		if p.first <= op && op <= p.last {
			s += " (" + p.name + ")"
		}
	}
	return s
}

// encode appends the opcode as it is written.
func (op opcode) encode(dst []byte) []byte {
	if op <= 0xff {
		return append(dst, byte(op))
	}
	return uleb(append(dst, byte(op>>16)), uint32(op&0xffff))
}

// shape is what follows an opcode.
type shape struct {
	known      bool
	immediates []immediate
}

// shapes are the instructions by opcode: without prefix, and behind each of the two.
var shapes = func() (s [3][256]shape) {
	for _, i := range instructions {
		for op := i.first; op <= i.last; op++ {
			s[op.space()][op&0xff] = shape{true, i.immediates}
		}
	}
	return s
}()

func (op opcode) space() int {
	switch op >> 16 {
	case prefixMisc:
		return 1
	case prefixSIMD:
		return 2
	}
	return 0
}

func (op opcode) shape() shape {
	if op&0xff00 != 0 {
		return shape{}
	}
	return shapes[op.space()][op&0xff]
}

// instr is one instruction.
type instr struct {
	op  opcode
	raw []byte // all of it, as it was written, but for where data segments are
	// imm are its immediates, those that are indices or an i32.
	imm    [2]uint32
	labels []uint32 // of a br_table, the default last
}

// instr reads an instruction and checks that the indices in it are of m.
// Rewriting adds to the index spaces, and a module that reaches beyond its own
// must not find that there.
func (m *module) instr(r *reader) instr {
	start := r.pos
	in := instr{op: opcode(r.byte())}
	if in.op == prefixMisc || in.op == prefixSIMD {
		sub := r.u32()
		in.op = in.op<<16 | opcode(min(sub, 0xffff))
	}
	s := in.op.shape()
	if !s.known && r.err == nil {
		r.pos = start
		r.failf("instruction %s is not part of WebAssembly 2.0", in.op)
	}
	for i, kind := range s.immediates {
		v := m.immediate(r, kind, &in)
		in.imm[i] = v
	}
	if r.err != nil {
		return instr{}
	}
	in.raw = r.data[start:r.pos]
	if in.op == opMemoryInit || in.op == opDataDrop {
		in.imm[0] = m.segments.of(in.imm[0])
		in.raw = helper{in.op, in.imm}.encode(nil)
	}
	return in
}

func (m *module) immediate(r *reader, kind immediate, in *instr) uint32 {
	switch kind {
	case immBlockType:
		m.blockType(r)
	case immLabel, immIndex:
		return r.u32()
	case immLabels:
		n := r.count()
		in.labels = make([]uint32, 0, min(n, maxLabels)+1)
		if n > maxLabels {
			r.failf("a br_table has %d labels, and at most %d are accepted", n, maxLabels)
		}
		for r.err == nil && len(in.labels) <= int(n) {
			in.labels = append(in.labels, r.u32())
		}
	case immFunc:
		return r.index(len(m.funcs), "function")
	case immType:
		return r.index(len(m.types), "type")
	case immGlobal:
		return r.index(len(m.globals), "global")
	case immTable:
		return r.index(len(m.tables), "table")
	case immMemory:
		// A byte that is reserved, not yet an index.
		if b := r.byte(); b != 0 || m.memories == 0 {
			r.failf("memory %d is named, and there are %d", b, m.memories)
		}
	case immData:
		if !m.hasDataCount {
			r.failf("a data segment is named, and there is no data count section")
		}
		return r.index(len(m.data), "data segment")
	case immElem:
		return r.index(len(m.elems), "element segment")
	case immMemArg:
		if align := r.u32(); align > maxAlign {
			r.failf("alignment 2^%d of a memory access (several memories are not part of WebAssembly 2.0)", align)
		}
		r.u32()
	case immI32:
		return uint32(r.signed(32))
	case immI64:
		r.signed(64)
	case imm1, immRefType:
		r.bytes(1)
	case imm4:
		r.bytes(4)
	case imm8:
		r.bytes(8)
	case imm16:
		r.bytes(16)
	case immTypes:
		r.bytes(r.count())
	}
	return 0
}

// blockType reads nothing, a value type, or the index of a type.
func (m *module) blockType(r *reader) {
	switch v := r.signed(33); {
	case v >= int64(len(m.types)):
		r.failf("type %d is named, and there are %d", v, len(m.types))
	case v < -64:
		r.failf("block type %d", v)
	}
}
