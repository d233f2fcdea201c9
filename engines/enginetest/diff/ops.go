package diff

import (
	"fmt"

	"forgeone.dev/forgeone/engines"
)

// op is an instruction that makes one value of others.
type op struct {
	code   []byte
	text   string
	params []engines.ValueType
	result engines.ValueType
	nan    nanKind
	lanes  byte // the number of lanes that its last immediate chooses from; 0 if it has none
	traps  bool // for some operands
}

func (o op) vector() bool { return o.code[0] == vector[0] }

// nanKind says how the NaNs that an instruction makes are told. Their bits are
// left to the engine (https://www.w3.org/TR/wasm-core-2/#nan-propagation), so
// that the generator replaces each by one and the same.
type nanKind byte

const (
	noNaN nanKind = iota
	scalarNaN
	f32x4NaN
	f64x2NaN
)

// letters are value types in the signatures below.
var letters = map[byte]engines.ValueType{
	'i': engines.I32, 'l': engines.I64, 'f': engines.F32, 'd': engines.F64, 'v': engines.V128,
}

// signatures are the instructions of WebAssembly 2.0 that have operands and one
// result of a number or vector type, and touch nothing else: ranges of opcodes
// behind a prefix (0 for none), the letters of their operands and result.
var signatures = []struct {
	prefix      byte
	first, last uint32
	signature   string
	nan         nanKind
	lanes       byte
	traps       bool
}{
	{0, 0x45, 0x45, "ii", 0, 0, false},
	{0, 0x46, 0x4f, "iii", 0, 0, false},
	{0, 0x50, 0x50, "li", 0, 0, false},
	{0, 0x51, 0x5a, "lli", 0, 0, false},
	{0, 0x5b, 0x60, "ffi", 0, 0, false},
	{0, 0x61, 0x66, "ddi", 0, 0, false},
	{0, 0x67, 0x69, "ii", 0, 0, false},
	{0, 0x6a, 0x6c, "iii", 0, 0, false},
	{0, 0x6d, 0x70, "iii", 0, 0, true}, // division
	{0, 0x71, 0x78, "iii", 0, 0, false},
	{0, 0x79, 0x7b, "ll", 0, 0, false},
	{0, 0x7c, 0x7e, "lll", 0, 0, false},
	{0, 0x7f, 0x82, "lll", 0, 0, true},
	{0, 0x83, 0x8a, "lll", 0, 0, false},
	{0, 0x8b, 0x8c, "ff", 0, 0, false}, // abs, neg
	{0, 0x8d, 0x91, "ff", scalarNaN, 0, false},
	{0, 0x92, 0x97, "fff", scalarNaN, 0, false},
	{0, 0x98, 0x98, "fff", 0, 0, false}, // copysign
	{0, 0x99, 0x9a, "dd", 0, 0, false},
	{0, 0x9b, 0x9f, "dd", scalarNaN, 0, false},
	{0, 0xa0, 0xa5, "ddd", scalarNaN, 0, false},
	{0, 0xa6, 0xa6, "ddd", 0, 0, false},
	{0, 0xa7, 0xa7, "li", 0, 0, false},
	{0, 0xa8, 0xa9, "fi", 0, 0, true}, // conversions that trap
	{0, 0xaa, 0xab, "di", 0, 0, true},
	{0, 0xac, 0xad, "il", 0, 0, false},
	{0, 0xae, 0xaf, "fl", 0, 0, true},
	{0, 0xb0, 0xb1, "dl", 0, 0, true},
	{0, 0xb2, 0xb3, "if", 0, 0, false},
	{0, 0xb4, 0xb5, "lf", 0, 0, false},
	{0, 0xb6, 0xb6, "df", scalarNaN, 0, false},
	{0, 0xb7, 0xb8, "id", 0, 0, false},
	{0, 0xb9, 0xba, "ld", 0, 0, false},
	{0, 0xbb, 0xbb, "fd", scalarNaN, 0, false},
	{0, 0xbc, 0xbc, "fi", 0, 0, false},
	{0, 0xbd, 0xbd, "dl", 0, 0, false},
	{0, 0xbe, 0xbe, "if", 0, 0, false},
	{0, 0xbf, 0xbf, "ld", 0, 0, false},
	{0, 0xc0, 0xc1, "ii", 0, 0, false},
	{0, 0xc2, 0xc4, "ll", 0, 0, false},

	{0xfc, 0, 1, "fi", 0, 0, false}, // saturating conversions
	{0xfc, 2, 3, "di", 0, 0, false},
	{0xfc, 4, 5, "fl", 0, 0, false},
	{0xfc, 6, 7, "dl", 0, 0, false},

	{0xfd, 14, 14, "vvv", 0, 0, false}, // swizzle
	{0xfd, 15, 17, "iv", 0, 0, false},
	{0xfd, 18, 18, "lv", 0, 0, false},
	{0xfd, 19, 19, "fv", 0, 0, false},
	{0xfd, 20, 20, "dv", 0, 0, false},
	{0xfd, 21, 22, "vi", 0, 16, false},
	{0xfd, 23, 23, "viv", 0, 16, false},
	{0xfd, 24, 25, "vi", 0, 8, false},
	{0xfd, 26, 26, "viv", 0, 8, false},
	{0xfd, 27, 27, "vi", 0, 4, false},
	{0xfd, 28, 28, "viv", 0, 4, false},
	{0xfd, 29, 29, "vl", 0, 2, false},
	{0xfd, 30, 30, "vlv", 0, 2, false},
	{0xfd, 31, 31, "vf", 0, 4, false},
	{0xfd, 32, 32, "vfv", 0, 4, false},
	{0xfd, 33, 33, "vd", 0, 2, false},
	{0xfd, 34, 34, "vdv", 0, 2, false},
	{0xfd, 35, 76, "vvv", 0, 0, false}, // comparisons
	{0xfd, 77, 77, "vv", 0, 0, false},
	{0xfd, 78, 81, "vvv", 0, 0, false},
	{0xfd, 82, 82, "vvvv", 0, 0, false}, // bitselect
	{0xfd, 83, 83, "vi", 0, 0, false},
	{0xfd, 94, 94, "vv", f32x4NaN, 0, false},
	{0xfd, 95, 95, "vv", f64x2NaN, 0, false},
	{0xfd, 96, 98, "vv", 0, 0, false}, // i8x16
	{0xfd, 99, 100, "vi", 0, 0, false},
	{0xfd, 101, 102, "vvv", 0, 0, false},
	{0xfd, 103, 106, "vv", f32x4NaN, 0, false},
	{0xfd, 107, 109, "viv", 0, 0, false},
	{0xfd, 110, 115, "vvv", 0, 0, false},
	{0xfd, 116, 117, "vv", f64x2NaN, 0, false},
	{0xfd, 118, 121, "vvv", 0, 0, false},
	{0xfd, 122, 122, "vv", f64x2NaN, 0, false},
	{0xfd, 123, 123, "vvv", 0, 0, false},
	{0xfd, 124, 129, "vv", 0, 0, false},
	{0xfd, 130, 130, "vvv", 0, 0, false}, // i16x8
	{0xfd, 131, 132, "vi", 0, 0, false},
	{0xfd, 133, 134, "vvv", 0, 0, false},
	{0xfd, 135, 138, "vv", 0, 0, false},
	{0xfd, 139, 141, "viv", 0, 0, false},
	{0xfd, 142, 147, "vvv", 0, 0, false},
	{0xfd, 148, 148, "vv", f64x2NaN, 0, false},
	{0xfd, 149, 153, "vvv", 0, 0, false},
	{0xfd, 155, 159, "vvv", 0, 0, false},
	{0xfd, 160, 161, "vv", 0, 0, false}, // i32x4
	{0xfd, 163, 164, "vi", 0, 0, false},
	{0xfd, 167, 170, "vv", 0, 0, false},
	{0xfd, 171, 173, "viv", 0, 0, false},
	{0xfd, 174, 174, "vvv", 0, 0, false},
	{0xfd, 177, 177, "vvv", 0, 0, false},
	{0xfd, 181, 186, "vvv", 0, 0, false},
	{0xfd, 188, 191, "vvv", 0, 0, false},
	{0xfd, 192, 193, "vv", 0, 0, false}, // i64x2
	{0xfd, 195, 196, "vi", 0, 0, false},
	{0xfd, 199, 202, "vv", 0, 0, false},
	{0xfd, 203, 205, "viv", 0, 0, false},
	{0xfd, 206, 206, "vvv", 0, 0, false},
	{0xfd, 209, 209, "vvv", 0, 0, false},
	{0xfd, 213, 223, "vvv", 0, 0, false},
	{0xfd, 224, 225, "vv", 0, 0, false}, // f32x4
	{0xfd, 227, 227, "vv", f32x4NaN, 0, false},
	{0xfd, 228, 233, "vvv", f32x4NaN, 0, false},
	{0xfd, 234, 235, "vvv", 0, 0, false},
	{0xfd, 236, 237, "vv", 0, 0, false}, // f64x2
	{0xfd, 239, 239, "vv", f64x2NaN, 0, false},
	{0xfd, 240, 245, "vvv", f64x2NaN, 0, false},
	{0xfd, 246, 247, "vvv", 0, 0, false},
	{0xfd, 248, 255, "vv", 0, 0, false}, // conversions
}

// opsByResult are all of them.
var opsByResult = func() map[engines.ValueType][]op {
	ops := make(map[engines.ValueType][]op)
	for _, s := range signatures {
		for code := s.first; code <= s.last; code++ {
			o := op{nan: s.nan, lanes: s.lanes, traps: s.traps, result: letters[s.signature[len(s.signature)-1]]}
			for _, p := range []byte(s.signature[:len(s.signature)-1]) {
				o.params = append(o.params, letters[p])
			}
			if s.prefix == 0 {
				o.code, o.text = []byte{byte(code)}, fmt.Sprintf("%s.op %#x", o.result, code)
			} else {
				o.code, o.text = uleb([]byte{s.prefix}, code), fmt.Sprintf("%s.op %#x %d", o.result, s.prefix, code)
			}
			ops[o.result] = append(ops[o.result], o)
		}
	}
	return ops
}()

// access is a load or store of memory.
type access struct {
	code  []byte
	typ   engines.ValueType
	align uint32 // at most, as a power of two
	lanes byte   // of those that take a vector to replace a lane of, or to store one from
}

func accesses(prefix []byte, first uint32, typ engines.ValueType, lanes bool, aligns ...uint32) (list []access) {
	for i, align := range aligns {
		a := access{code: uleb(prefix[:len(prefix):len(prefix)], first+uint32(i)), typ: typ, align: align}
		if lanes {
			a.lanes = 16 >> align
		}
		list = append(list, a)
	}
	return list
}

func flat[T any](lists ...[]T) (all []T) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

var vector = []byte{0xfd}

var (
	loads = map[engines.ValueType][]access{
		engines.I32: flat(plain(0x28, engines.I32, 2), plain(0x2c, engines.I32, 0, 0, 1, 1)),
		engines.I64: flat(plain(0x29, engines.I64, 3), plain(0x30, engines.I64, 0, 0, 1, 1, 2, 2)),
		engines.F32: plain(0x2a, engines.F32, 2),
		engines.F64: plain(0x2b, engines.F64, 3),
		engines.V128: flat(
			accesses(vector, 0, engines.V128, false, 4, 3, 3, 3, 3, 3, 3, 0, 1, 2, 3),
			accesses(vector, 84, engines.V128, true, 0, 1, 2, 3),
			accesses(vector, 92, engines.V128, false, 2, 3)),
	}
	stores = flat(
		plain(0x36, engines.I32, 2), plain(0x37, engines.I64, 3), plain(0x38, engines.F32, 2), plain(0x39, engines.F64, 3),
		plain(0x3a, engines.I32, 0, 1), plain(0x3c, engines.I64, 0, 1, 2),
		accesses(vector, 11, engines.V128, false, 4),
		accesses(vector, 88, engines.V128, true, 0, 1, 2, 3))
)

// plain are accesses whose opcodes have one byte.
func plain(first byte, typ engines.ValueType, aligns ...uint32) (list []access) {
	for i, align := range aligns {
		list = append(list, access{code: []byte{first + byte(i)}, typ: typ, align: align})
	}
	return list
}
