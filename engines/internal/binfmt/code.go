package binfmt

import "encoding/binary"

// Opcodes and prefixes
// (https://www.w3.org/TR/wasm-core-2/#a7-index-of-instructions).
const (
	opTableSet = 0x26
	opI32Const = 0x41
	prefixMisc = 0xfc
	prefixSIMD = 0xfd
	tableFill  = 17 // after prefixMisc
)

// instruction skips an instruction, and returns its first byte and, if it has
// one, its first immediate. One that is not part of WebAssembly 2.0 is an error:
// where it ends is not known.
func (r *reader) instruction() (op byte, immediate uint32) {
	op = r.byte()
	switch {
	case op == 0x1c: // select, of given types
		r.bytes(int(r.count()))
	case op <= 0x01, op == 0x05, op == 0x0b, op == 0x0f, op == 0x1a, op == 0x1b, op >= 0x45 && op <= 0xc4, op == 0xd1:
	case op >= 0x02 && op <= 0x04: // block, loop, if
		r.leb(5)
	case op == 0x0c, op == 0x0d, op == 0x10, op >= 0x20 && op <= 0x26, op == 0x3f, op == 0x40, op == 0xd2:
		immediate = r.u32()
	case op == 0x0e: // br_table
		for n := r.count(); n > 0 && r.err == nil; n-- {
			r.u32()
		}
		r.u32()
	case op == 0x11, op >= 0x28 && op <= 0x3e: // call_indirect, loads and stores
		immediate = r.u32()
		r.u32()
	case op == opI32Const:
		immediate = r.s32()
	case op == 0x42: // i64.const
		r.leb(10)
	case op == 0x43: // f32.const
		r.bytes(4)
	case op == 0x44: // f64.const
		r.bytes(8)
	case op == 0xd0: // ref.null
		r.byte()
	case op == prefixMisc:
		r.misc(r.u32())
	case op == prefixSIMD:
		r.vector(r.u32())
	default:
		r.failf("instruction %#x is not part of WebAssembly 2.0", op)
	}
	return op, immediate
}

// misc skips the immediates of instruction n of the prefix 0xfc.
func (r *reader) misc(n uint32) {
	switch n {
	case 0, 1, 2, 3, 4, 5, 6, 7: // saturating conversions
	case 9, 11, 13, 15, 16, tableFill:
		r.u32()
	case 8, 10, 12, 14: // init and copy
		r.u32()
		r.u32()
	default:
		r.failf("instruction 0xfc %d is not part of WebAssembly 2.0", n)
	}
}

// vector skips the immediates of instruction n of the prefix 0xfd.
func (r *reader) vector(n uint32) {
	if n > 255 {
		r.failf("instruction 0xfd %d is not part of WebAssembly 2.0", n)
	}
	if n <= 11 || n >= 84 && n <= 93 { // loads and stores
		r.u32()
		r.u32()
	}
	if n >= 21 && n <= 34 || n >= 84 && n <= 91 { // of lanes
		r.byte()
	}
	if n == 12 || n == 13 { // v128.const, i8x16.shuffle
		r.bytes(16)
	}
}

// code writes the code section with table.set as [Edit.FillFrom] says.
func (w *writer) code(r *reader) {
	n := r.count()
	section := binary.AppendUvarint(nil, uint64(n))
	for ; n > 0 && r.err == nil; n-- {
		size := r.count()
		start := r.pos
		body := reader{data: r.bytes(int(size)), base: r.base + start, err: r.err}
		function := w.function(&body)
		r.err = body.err
		section = append(binary.AppendUvarint(section, uint64(len(function))), function...)
	}
	w.append(sectionCode, section)
}

func (w *writer) function(r *reader) []byte {
	for n := r.count(); n > 0 && r.err == nil; n-- {
		r.u32()
		r.valueType()
	}
	var out []byte
	done := 0 // what is before is in out
	for r.err == nil && r.pos < len(r.data) {
		start := r.pos
		op, table := r.instruction()
		if op == opTableSet && table >= w.edit.FillFrom {
			out = append(out, r.data[done:start]...)
			out = append(out, opI32Const, 1, prefixMisc, tableFill)
			out = binary.AppendUvarint(out, uint64(table))
			done = r.pos
		}
	}
	return append(out, r.data[done:]...)
}
