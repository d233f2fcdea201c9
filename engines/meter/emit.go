package meter

import "forgeone.dev/forgeone/engines"

// Opcodes that are written and never looked at.
const (
	memorySize   = 0x3f
	i32LtU       = 0x49
	i32GtU       = 0x4b
	i32Eqz       = 0x45
	i64Eqz       = 0x50
	i64LtS       = 0x53
	i64GeS       = 0x59
	i64GtU       = 0x56
	f64Ge        = 0x66
	i32Add       = 0x6a
	i32Sub       = 0x6b
	i32And       = 0x71
	i32Or        = 0x72
	i32GeU       = 0x4f
	i32LeU       = 0x4d
	i64Add       = 0x7c
	i64Sub       = 0x7d
	i64Mul       = 0x7e
	i64Shl       = 0x86
	i64ShrU      = 0x88
	i64ExtendI32 = 0xad // unsigned
	selectOp     = 0x1b
	emptyBlock   = 0x40
)

// code is a sequence of instructions that is being written. Each method returns
// it with more at its end.
type code []byte

func (c code) op(ops ...byte) code     { return append(c, ops...) }
func (c code) i32(v int32) code        { return sleb(append(c, byte(opI32Const)), int64(v)) }
func (c code) i64(v int64) code        { return sleb(append(c, 0x42), v) }
func (c code) get(local uint32) code   { return uleb(append(c, byte(opLocalGet)), local) }
func (c code) set(local uint32) code   { return uleb(append(c, byte(opLocalSet)), local) }
func (c code) tee(local uint32) code   { return uleb(append(c, byte(opLocalTee)), local) }
func (c code) globalGet(i uint32) code { return uleb(append(c, byte(opGlobalGet)), i) }
func (c code) globalSet(i uint32) code { return uleb(append(c, byte(opGlobalSet)), i) }
func (c code) call(fn uint32) code     { return uleb(append(c, byte(opCall)), fn) }
func (c code) br(depth uint32) code    { return uleb(append(c, byte(opBr)), depth) }
func (c code) brIf(depth uint32) code  { return uleb(append(c, byte(opBrIf)), depth) }

// zero pushes the zero of a number type.
func (c code) zero(t engines.ValueType) code {
	switch t {
	case engines.I32:
		return c.i32(0)
	case engines.I64:
		return c.i64(0)
	case engines.F32:
		return append(c, 0x43, 0, 0, 0, 0)
	}
	return append(c, 0x44, 0, 0, 0, 0, 0, 0, 0, 0)
}

func (c code) end() code { return append(c, byte(opEnd)) }

// block opens a block, loop or if without parameters or results.
func (c code) block(op opcode) code { return append(c, byte(op), emptyBlock) }

// appendSection appends a section to a module.
func appendSection(dst []byte, id byte, body []byte) []byte {
	return str(append(dst, id), body)
}

// inverse are the comparisons of integers that are true where others are not.
var inverse = map[opcode]byte{
	0x46: 0x47, 0x47: 0x46, // i32.eq, ne
	0x48: 0x4e, 0x4e: 0x48, // i32.lt_s, ge_s
	0x49: 0x4f, 0x4f: 0x49, // i32.lt_u, ge_u
	0x4a: 0x4c, 0x4c: 0x4a, // i32.gt_s, le_s
	0x4b: 0x4d, 0x4d: 0x4b, // i32.gt_u, le_u
	0x51: 0x52, 0x52: 0x51, // i64, likewise
	0x53: 0x59, 0x59: 0x53,
	0x54: 0x5a, 0x5a: 0x54,
	0x55: 0x57, 0x57: 0x55,
	0x56: 0x58, 0x58: 0x56,
}

// negate makes the condition at the end of code the opposite. prev is the last
// instruction. It is false where that would cost one more, because prev is a
// comparison that has no inverse (a float may be no number).
func (c code) negate(prev opcode) (code, bool) {
	if op, ok := inverse[prev]; ok {
		return c[:len(c)-1].op(op), true
	}
	switch {
	case prev == i32Eqz:
		return c[:len(c)-1], true
	case prev >= i64Eqz && prev <= f64Ge:
		return c, false
	}
	return c.op(i32Eqz), true
}
