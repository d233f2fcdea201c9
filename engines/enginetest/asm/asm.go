// Package asm builds WebAssembly modules for tests: a small assembler for the
// binary format of the WebAssembly Core Specification 2.0
// (https://www.w3.org/TR/wasm-core-2/#binary-format). It writes what it is told
// and validates nothing, so a test can build invalid modules too.
package asm

import (
	"encoding/binary"

	"forgeone.dev/forgeone/engines"
)

// Module collects the parts of a module. Imports of a kind come before
// definitions of that kind: the index spaces are counted in the order of the
// calls. The zero value is the empty module.
type Module struct {
	types    []engines.FuncType
	imports  vec
	funcs    vec
	tables   vec
	memories vec
	globals  vec
	exports  vec
	start    []byte
	elems    vec
	code     vec
	data     vec
	passive  bool // there is passive data, so data is counted before the code

	// index spaces, imports included
	numFuncs, numTables, numMemories, numGlobals uint32
}

// vec is a vector of the binary format: a count and that many encoded items.
type vec struct {
	n     uint32
	items []byte
}

func (v *vec) add(item []byte) {
	v.n++
	v.items = append(v.items, item...)
}

// Func makes a function type.
func Func(params, results []engines.ValueType) engines.FuncType {
	return engines.FuncType{Params: params, Results: results}
}

// Types is a list of value types, to be read well in calls of [Func].
func Types(ts ...engines.ValueType) []engines.ValueType { return ts }

// Type returns the index of a function type, adding it if it is new.
func (m *Module) Type(t engines.FuncType) uint32 {
	for i, have := range m.types {
		if have.Equal(t) {
			return uint32(i)
		}
	}
	m.types = append(m.types, t)
	return uint32(len(m.types) - 1)
}

// ImportFunc imports a function and returns its index.
func (m *Module) ImportFunc(module, name string, t engines.FuncType) uint32 {
	m.importItem(module, name, engines.KindFunc, uleb(nil, m.Type(t)))
	return next(&m.numFuncs)
}

// ImportTable imports a funcref table of at least min entries and returns its index.
func (m *Module) ImportTable(module, name string, min uint32) uint32 {
	m.importItem(module, name, engines.KindTable, append([]byte{byte(engines.FuncRef)}, limits(min, nil)...))
	return next(&m.numTables)
}

// ImportMemory imports a memory of at least min pages and, if given, at most max.
func (m *Module) ImportMemory(module, name string, min uint32, max ...uint32) uint32 {
	m.importItem(module, name, engines.KindMemory, limits(min, max))
	return next(&m.numMemories)
}

// ImportGlobal imports a global and returns its index.
func (m *Module) ImportGlobal(module, name string, t engines.GlobalType) uint32 {
	m.importItem(module, name, engines.KindGlobal, globalType(t))
	return next(&m.numGlobals)
}

func (m *Module) importItem(module, name string, kind engines.ExternKind, desc []byte) {
	item := str(str(nil, module), name)
	m.imports.add(append(append(item, byte(kind)), desc...))
}

// Func defines a function and returns its index. It is exported as export
// unless that is empty.
func (m *Module) Func(export string, t engines.FuncType, body Code, locals ...engines.ValueType) uint32 {
	m.funcs.add(uleb(nil, m.Type(t)))
	code := uleb(nil, uint32(len(locals)))
	for _, l := range locals {
		code = append(code, 1, byte(l))
	}
	code = append(append(code, body...), opEnd)
	m.code.add(append(uleb(nil, uint32(len(code))), code...))
	return m.defined(export, engines.KindFunc, &m.numFuncs)
}

// Table defines a funcref table of min entries that may grow to max, if given.
func (m *Module) Table(export string, min uint32, max ...uint32) uint32 {
	m.tables.add(append([]byte{byte(engines.FuncRef)}, limits(min, max)...))
	return m.defined(export, engines.KindTable, &m.numTables)
}

// Memory defines a memory of min pages that may grow to max, if given.
func (m *Module) Memory(export string, min uint32, max ...uint32) uint32 {
	m.memories.add(limits(min, max))
	return m.defined(export, engines.KindMemory, &m.numMemories)
}

// Global defines a global with a constant expression as initial value.
func (m *Module) Global(export string, t engines.GlobalType, init Code) uint32 {
	m.globals.add(append(append(globalType(t), init...), opEnd))
	return m.defined(export, engines.KindGlobal, &m.numGlobals)
}

func (m *Module) defined(export string, kind engines.ExternKind, count *uint32) uint32 {
	index := next(count)
	if export != "" {
		m.Export(export, kind, index)
	}
	return index
}

// Export exports what the index of a kind stands for.
func (m *Module) Export(name string, kind engines.ExternKind, index uint32) {
	m.exports.add(uleb(append(str(nil, name), byte(kind)), index))
}

// Start makes a function the start function.
func (m *Module) Start(fn uint32) { m.start = uleb(nil, fn) }

// Elem puts functions into table 0 from offset on, at instantiation.
func (m *Module) Elem(offset int32, fns ...uint32) {
	item := append([]byte{0}, Code(nil).I32Const(offset)...)
	item = uleb(append(item, opEnd), uint32(len(fns)))
	for _, fn := range fns {
		item = uleb(item, fn)
	}
	m.elems.add(item)
}

// PassiveElem keeps functions for table.init. It returns the index of the segment.
func (m *Module) PassiveElem(fns ...uint32) uint32 {
	item := uleb([]byte{1, 0}, uint32(len(fns)))
	for _, fn := range fns {
		item = uleb(item, fn)
	}
	m.elems.add(item)
	return m.elems.n - 1
}

// Data puts bytes into memory 0 at offset, at instantiation.
func (m *Module) Data(offset int32, data string) {
	item := append([]byte{0}, Code(nil).I32Const(offset)...)
	m.data.add(str(append(item, opEnd), data))
}

// PassiveData keeps bytes for memory.init. It returns the index of the segment.
func (m *Module) PassiveData(data string) uint32 {
	m.data.add(str([]byte{1}, data))
	m.passive = true
	return m.data.n - 1
}

// Bytes is the module in the binary format.
func (m *Module) Bytes() []byte {
	out := []byte("\x00asm\x01\x00\x00\x00")
	section := func(id byte, body []byte) {
		out = append(uleb(append(out, id), uint32(len(body))), body...)
	}
	vector := func(id byte, v vec) {
		if v.n > 0 {
			section(id, append(uleb(nil, v.n), v.items...))
		}
	}
	var types vec
	for _, t := range m.types {
		types.add(valueTypes(valueTypes([]byte{0x60}, t.Params), t.Results))
	}
	vector(1, types)
	vector(2, m.imports)
	vector(3, m.funcs)
	vector(4, m.tables)
	vector(5, m.memories)
	vector(6, m.globals)
	vector(7, m.exports)
	if m.start != nil {
		section(8, m.start)
	}
	vector(9, m.elems)
	if m.passive {
		section(12, uleb(nil, m.data.n))
	}
	vector(10, m.code)
	vector(11, m.data)
	return out
}

func next(count *uint32) uint32 {
	*count++
	return *count - 1
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

func str(dst []byte, s string) []byte { return append(uleb(dst, uint32(len(s))), s...) }

func valueTypes(dst []byte, ts []engines.ValueType) []byte {
	dst = uleb(dst, uint32(len(ts)))
	for _, t := range ts {
		dst = append(dst, byte(t))
	}
	return dst
}

func limits(min uint32, max []uint32) []byte {
	if len(max) == 0 {
		return uleb([]byte{0}, min)
	}
	return uleb(uleb([]byte{1}, min), max[0])
}

func globalType(t engines.GlobalType) []byte {
	if t.Mutable {
		return []byte{byte(t.Value), 1}
	}
	return []byte{byte(t.Value), 0}
}
