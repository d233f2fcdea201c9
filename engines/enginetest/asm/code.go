package asm

import (
	"encoding/binary"
	"math"

	"forgeone.dev/forgeone/engines"
)

// Opcodes without immediates, for [Code.Op]
// (https://www.w3.org/TR/wasm-core-2/#a7-index-of-instructions).
const (
	Unreachable   = 0x00
	Nop           = 0x01
	opEnd         = 0x0b
	Return        = 0x0f
	Drop          = 0x1a
	I32Eqz        = 0x45
	I32LtU        = 0x49
	I32Add        = 0x6a
	I32Sub        = 0x6b
	I32Mul        = 0x6c
	I32DivS       = 0x6d
	I32DivU       = 0x6e
	I64Add        = 0x7c
	F32Add        = 0x92
	F64Add        = 0xa0
	I32WrapI64    = 0xa7
	I32TruncF64S  = 0xaa
	I64ExtendI32U = 0xad
)

// Code is a sequence of instructions. Each method returns it with one more at
// its end, so that bodies read in the order of execution; the end of a function
// is not written.
type Code []byte

// Op adds instructions that have no immediates.
func (c Code) Op(ops ...byte) Code { return append(c, ops...) }

// I32Const pushes v.
func (c Code) I32Const(v int32) Code { return sleb(append(c, 0x41), int64(v)) }

// I64Const pushes v.
func (c Code) I64Const(v int64) Code { return sleb(append(c, 0x42), v) }

// F32Const pushes v.
func (c Code) F32Const(v float32) Code {
	return binary.LittleEndian.AppendUint32(append(c, 0x43), math.Float32bits(v))
}

// F64Const pushes v.
func (c Code) F64Const(v float64) Code {
	return binary.LittleEndian.AppendUint64(append(c, 0x44), math.Float64bits(v))
}

// LocalGet pushes a local.
func (c Code) LocalGet(i uint32) Code { return uleb(append(c, 0x20), i) }

// LocalSet pops a local.
func (c Code) LocalSet(i uint32) Code { return uleb(append(c, 0x21), i) }

// GlobalGet pushes a global.
func (c Code) GlobalGet(i uint32) Code { return uleb(append(c, 0x23), i) }

// GlobalSet pops a global.
func (c Code) GlobalSet(i uint32) Code { return uleb(append(c, 0x24), i) }

// Call calls a function.
func (c Code) Call(fn uint32) Code { return uleb(append(c, 0x10), fn) }

// CallIndirect calls the entry of table 0 that is on top of the stack, as a
// function of the type with that index.
func (c Code) CallIndirect(typ uint32) Code { return append(uleb(append(c, 0x11), typ), 0) }

// Block opens a block without parameters or results, as Loop and If do.
func (c Code) Block() Code { return append(c, 0x02, 0x40) }

// Loop opens a loop; a branch to it continues it.
func (c Code) Loop() Code { return append(c, 0x03, 0x40) }

// If opens a block that runs when the top of the stack is not 0.
func (c Code) If() Code { return append(c, 0x04, 0x40) }

// End closes a block.
func (c Code) End() Code { return append(c, opEnd) }

// Br branches to the block that many levels out.
func (c Code) Br(depth uint32) Code { return uleb(append(c, 0x0c), depth) }

// BrIf is Br if the top of the stack is not 0.
func (c Code) BrIf(depth uint32) Code { return uleb(append(c, 0x0d), depth) }

// I32Load pushes the 32 bits at the address on the stack plus offset.
func (c Code) I32Load(offset uint32) Code { return uleb(append(c, 0x28, 2), offset) }

// I32Store pops a value, then an address, and stores the one at the other plus offset.
func (c Code) I32Store(offset uint32) Code { return uleb(append(c, 0x36, 2), offset) }

// MemorySize pushes the size of memory 0 in pages.
func (c Code) MemorySize() Code { return append(c, 0x3f, 0) }

// MemoryGrow grows memory 0 by the pages on the stack and pushes the previous
// size, or -1.
func (c Code) MemoryGrow() Code { return append(c, 0x40, 0) }

// RefNull pushes the null reference of a type.
func (c Code) RefNull(t engines.ValueType) Code { return append(c, 0xd0, byte(t)) }

// RefFunc pushes a reference to a function.
func (c Code) RefFunc(fn uint32) Code { return uleb(append(c, 0xd2), fn) }
