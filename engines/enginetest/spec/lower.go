package spec

import (
	"encoding/binary"
	"slices"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/internal/binfmt"
)

// lower rewrites a module so that what it exports can be reached through an
// engine whose binding carries numbers only: in the place of a function with
// vectors or references in its type it exports one without, that calls it; in
// the place of a global of such a type, a function that gets it. A v128 is two
// i64, low half first. A reference is an i32: as a parameter it is ignored, and
// null is passed; as a result it is 1, or 0 if it is null.
//
// What is malformed is returned as it is, and so is a module that has no such
// exports.
func lower(wasm []byte) []byte {
	iface, err := binfmt.Decode(wasm)
	if err != nil || !slices.ContainsFunc(iface.Exports, func(ex engines.ExportType) bool { return toLower(ex.Type) }) {
		return wasm
	}
	l := newLowering(wasm)
	for _, im := range iface.Imports {
		if im.Type.Kind == engines.KindFunc {
			l.functions++
		}
	}
	l.functions += l.count(sectionFunction)
	exports := l.take(sectionExport)
	for _, ex := range iface.Exports {
		_, rest := vector(exports)
		item := exports[:len(exports)-len(rest)+1] // the name and the kind
		index, n := binary.Uvarint(rest[1:])
		exports = rest[1+n:]
		if toLower(ex.Type) {
			index = l.add(ex.Type, index)
			item = append(item[:len(item)-1:len(item)-1], byte(engines.KindFunc))
		}
		l.append(sectionExport, binary.AppendUvarint(slices.Clone(item), index))
	}
	return l.bytes()
}

// toLower reports whether an export has a type that numbers must stand for.
func toLower(t engines.ExternType) bool {
	switch t.Kind {
	case engines.KindFunc:
		return slices.ContainsFunc(slices.Concat(t.Func.Params, t.Func.Results), notNumber)
	case engines.KindGlobal:
		return notNumber(t.Global.Value)
	}
	return false
}

func notNumber(t engines.ValueType) bool {
	return t == engines.V128 || t == engines.FuncRef || t == engines.ExternRef
}

// lowered are the numbers that stand for values of some types.
func lowered(ts []engines.ValueType) (out []engines.ValueType) {
	for _, t := range ts {
		switch t {
		case engines.V128:
			out = append(out, engines.I64, engines.I64)
		case engines.FuncRef, engines.ExternRef:
			out = append(out, engines.I32)
		default:
			out = append(out, t)
		}
	}
	return out
}

// The sections that lowering adds to, and the order of all: data count (12)
// comes before code.
const (
	sectionType     = 1
	sectionFunction = 3
	sectionExport   = 7
	sectionElement  = 9
	sectionCode     = 10
	sectionOrder    = "\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0c\x0a\x0b"
	headerSize      = 8
)

// lowering is a module that functions are added to.
type lowering struct {
	header    []byte
	sections  map[byte][]byte
	functions uint64 // imported and defined
}

// newLowering takes a module apart whose sections are known to be well formed.
func newLowering(wasm []byte) *lowering {
	l := &lowering{header: wasm[:headerSize], sections: make(map[byte][]byte)}
	for wasm = wasm[headerSize:]; len(wasm) > 0; {
		id := wasm[0]
		l.sections[id], wasm = vector(wasm[1:])
	}
	return l
}

// vector splits data into what its first bytes say the length of, and the rest.
func vector(data []byte) (v, rest []byte) {
	size, n := binary.Uvarint(data)
	end := n + int(size)
	return data[n:end:end], data[end:]
}

func (l *lowering) count(id byte) uint64 {
	n, _ := binary.Uvarint(l.sections[id])
	return n
}

// take empties a section, and returns its items.
func (l *lowering) take(id byte) []byte {
	body := l.sections[id]
	_, n := binary.Uvarint(body)
	delete(l.sections, id)
	return body[n:]
}

// append adds an item to a section, and returns its index.
func (l *lowering) append(id byte, item []byte) uint64 {
	var items []byte
	index := l.count(id)
	if index > 0 {
		items = l.take(id)
	}
	l.sections[id] = slices.Concat(binary.AppendUvarint(nil, index+1), items, item)
	return index
}

func (l *lowering) bytes() []byte {
	out := slices.Clone(l.header)
	for _, id := range []byte(sectionOrder) {
		if body, ok := l.sections[id]; ok {
			out = append(binary.AppendUvarint(append(out, id), uint64(len(body))), body...)
		}
	}
	return out
}

// add defines a function of numbers for a function or global of an index, and
// returns its own.
func (l *lowering) add(t engines.ExternType, index uint64) uint64 {
	typ := t.Func
	op := byte(0x10) // call
	if t.Kind == engines.KindGlobal {
		typ.Results = []engines.ValueType{t.Global.Value}
		op = 0x23 // global.get
	}
	if t.Kind == engines.KindFunc {
		// What is exported may be referred to: a declaration has it stay so.
		l.append(sectionElement, binary.AppendUvarint([]byte{3, 0, 1}, index))
	}
	form := valueTypes(valueTypes([]byte{0x60}, lowered(typ.Params)), lowered(typ.Results))
	l.append(sectionFunction, binary.AppendUvarint(nil, l.append(sectionType, form)))

	// The results are locals, after the parameters: they come from the stack last first.
	body := []byte{byte(len(typ.Results))}
	for _, r := range typ.Results {
		body = append(body, 1, byte(r))
	}
	local := uint64(0)
	get := func(i uint64) { body = binary.AppendUvarint(append(body, 0x20), i) }
	for _, p := range typ.Params {
		switch p {
		case engines.V128:
			get(local)
			body = append(body, 0xfd, 18) // i64x2.splat
			get(local + 1)
			body = append(body, 0xfd, 30, 1) // i64x2.replace_lane 1
			local += 2
			continue
		case engines.FuncRef, engines.ExternRef:
			body = append(body, 0xd0, byte(p)) // ref.null
		default:
			get(local)
		}
		local++
	}
	body = binary.AppendUvarint(append(body, op), index)
	for i := range typ.Results {
		body = binary.AppendUvarint(append(body, 0x21), local+uint64(len(typ.Results)-1-i))
	}
	for i, r := range typ.Results {
		get(local + uint64(i))
		switch r {
		case engines.V128:
			body = append(body, 0xfd, 29, 0) // i64x2.extract_lane 0
			get(local + uint64(i))
			body = append(body, 0xfd, 29, 1)
		case engines.FuncRef, engines.ExternRef:
			body = append(body, 0xd1, 0x45) // ref.is_null, i32.eqz
		}
	}
	body = append(body, 0x0b)
	l.append(sectionCode, append(binary.AppendUvarint(nil, uint64(len(body))), body...))
	l.functions++
	return l.functions - 1
}

func valueTypes(dst []byte, ts []engines.ValueType) []byte {
	dst = append(dst, byte(len(ts)))
	for _, t := range ts {
		dst = append(dst, byte(t))
	}
	return dst
}
