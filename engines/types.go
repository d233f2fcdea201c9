package engines

import (
	"fmt"
	"math"
	"strings"
)

// PageSize is the size of a page of linear memory in bytes.
const PageSize = 65536

// ValueType is the type of a WebAssembly value, encoded as in the binary format.
type ValueType byte

// The value types of WebAssembly 2.0.
const (
	I32       ValueType = 0x7f
	I64       ValueType = 0x7e
	F32       ValueType = 0x7d
	F64       ValueType = 0x7c
	V128      ValueType = 0x7b
	FuncRef   ValueType = 0x70
	ExternRef ValueType = 0x6f
)

// String is the name of the type in the text format.
func (t ValueType) String() string {
	switch t {
	case I32:
		return "i32"
	case I64:
		return "i64"
	case F32:
		return "f32"
	case F64:
		return "f64"
	case V128:
		return "v128"
	case FuncRef:
		return "funcref"
	case ExternRef:
		return "externref"
	}
	return fmt.Sprintf("valuetype(%#x)", byte(t))
}

// FuncType is the type of a function.
type FuncType struct {
	Params  []ValueType
	Results []ValueType
}

// Slots is the number of words a call's stack needs: the larger of what the
// parameters and what the results take (a v128 takes two words, low half first).
func (t FuncType) Slots() int { return max(words(t.Params), words(t.Results)) }

func words(ts []ValueType) int {
	n := len(ts)
	for _, t := range ts {
		if t == V128 {
			n++
		}
	}
	return n
}

// Equal reports whether both types have the same parameters and results.
func (t FuncType) Equal(o FuncType) bool { return t.String() == o.String() }

// String is the type in the form "(i32, i64) -> (f64)".
func (t FuncType) String() string {
	list := func(ts []ValueType) string {
		s := make([]string, len(ts))
		for i, t := range ts {
			s[i] = t.String()
		}
		return "(" + strings.Join(s, ", ") + ")"
	}
	return list(t.Params) + " -> " + list(t.Results)
}

// MemoryType is the type of a memory, in pages.
type MemoryType struct {
	Min uint32
	Max uint32 // meaningful only if HasMax
	// HasMax reports whether the module declares a maximum.
	HasMax bool
}

// GlobalType is the type of a global.
type GlobalType struct {
	Value   ValueType
	Mutable bool
}

// ExternKind is what an import or export is.
type ExternKind byte

// The kinds of the WebAssembly binary format.
const (
	KindFunc ExternKind = iota
	KindTable
	KindMemory
	KindGlobal
)

// String is the kind's keyword in the text format.
func (k ExternKind) String() string {
	switch k {
	case KindFunc:
		return "func"
	case KindTable:
		return "table"
	case KindMemory:
		return "memory"
	case KindGlobal:
		return "global"
	}
	return fmt.Sprintf("kind(%d)", byte(k))
}

// ExternType is the type of an import or export; the field that Kind names is
// meaningful (a table's type is not exposed).
type ExternType struct {
	Kind   ExternKind
	Func   FuncType
	Memory MemoryType
	Global GlobalType
}

// ImportType is one import of a module.
type ImportType struct {
	Module, Name string
	Type         ExternType
}

// ExportType is one export of a module.
type ExportType struct {
	Name string
	Type ExternType
}

// Value is a typed WebAssembly number, for callers that do not want to encode
// words themselves.
type Value struct {
	Type ValueType
	Bits uint64
}

// ValueI32 is v as an i32.
func ValueI32(v int32) Value { return Value{I32, uint64(uint32(v))} }

// ValueI64 is v as an i64.
func ValueI64(v int64) Value { return Value{I64, uint64(v)} }

// ValueF32 is v as an f32.
func ValueF32(v float32) Value { return Value{F32, uint64(math.Float32bits(v))} }

// ValueF64 is v as an f64.
func ValueF64(v float64) Value { return Value{F64, math.Float64bits(v)} }

// I32 is the value as a signed 32-bit integer.
func (v Value) I32() int32 { return int32(uint32(v.Bits)) }

// I64 is the value as a signed 64-bit integer.
func (v Value) I64() int64 { return int64(v.Bits) }

// F32 is the value as a 32-bit float.
func (v Value) F32() float32 { return math.Float32frombits(uint32(v.Bits)) }

// F64 is the value as a 64-bit float.
func (v Value) F64() float64 { return math.Float64frombits(v.Bits) }

// String is the value as a decimal number (references as hexadecimal words).
func (v Value) String() string {
	switch v.Type {
	case I32:
		return fmt.Sprint(v.I32())
	case I64:
		return fmt.Sprint(v.I64())
	case F32:
		return fmt.Sprint(v.F32())
	case F64:
		return fmt.Sprint(v.F64())
	}
	return fmt.Sprintf("%#x", v.Bits)
}
