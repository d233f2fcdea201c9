package diff

import (
	"encoding/binary"
	"fmt"
	"strings"

	"forgeone.dev/forgeone/engines"
)

// Module is a module as it was generated: a tree, so that parts can be taken
// out of it and it stays valid.
type Module struct {
	Types   []engines.FuncType
	Imports []imported
	Funcs   []*Func
	Tables  []limits
	Memory  limits
	Globals []global
	Elems   []segment
	Data    []segment
	Start   int // the index of the start function, or -1

	// Lender is a module that this one imports functions of, and its gas; nil if
	// it imports from the host alone.
	Lender                    *Module
	SharedMemory, SharedTable bool // imported from the lender: the memory, and table 0

	Vectors bool // it may have vector instructions
	nodes   int  // that a function may have, about
	// Endless says that its loops and its recursion may not end: it needs fuel.
	Endless bool
}

// Func is a function that the module defines.
type Func struct {
	Type   uint32
	Locals []engines.ValueType // without the parameters
	Body   []*node
	Export bool // by its index
}

// imported is a function that is.
type imported struct {
	module, name string
	typ          uint32
}

// The modules that a module imports from.
const (
	host   = "env"
	lender = "lender"
)

type limits struct {
	min, max uint32
	hasMax   bool
}

type global struct {
	engines.GlobalType
	init   *node
	export bool
}

// segment is one of data, or in funcs, of elements.
type segment struct {
	passive bool
	offset  int32
	bytes   []byte
	funcs   []uint32
}

// node is an instruction after those that make its operands, or a sequence of
// nodes that are taken out together only.
type node struct {
	text    string // as in the text format
	code    []byte // opcode and immediates; nil for a sequence
	results []engines.ValueType
	args    []*node
	block   bool // has a body that ends with end
	body    []*node
	orElse  []*node // after an else; nil if there is none
	keep    bool    // it ends a loop or a recursion, and is never taken out
}

const (
	opElse = 0x05
	opEnd  = 0x0b
)

// typeIndex is the index of a type, added if it is new.
func (m *Module) typeIndex(t engines.FuncType) uint32 {
	for i, have := range m.Types {
		if have.Equal(t) {
			return uint32(i)
		}
	}
	m.Types = append(m.Types, t)
	return uint32(len(m.Types) - 1)
}

// typeOf is the type of a function by its index, imports first.
func (m *Module) typeOf(fn int) engines.FuncType {
	if fn < len(m.Imports) {
		return m.Types[m.Imports[fn].typ]
	}
	return m.Types[m.Funcs[fn-len(m.Imports)].Type]
}

// Bytes is the module in the binary format.
func (m *Module) Bytes() []byte {
	out := []byte("\x00asm\x01\x00\x00\x00")
	section := func(id byte, n int, items []byte) {
		if n > 0 {
			body := append(uleb(nil, uint32(n)), items...)
			out = append(uleb(append(out, id), uint32(len(body))), body...)
		}
	}
	var items []byte
	for _, t := range m.Types {
		items = valueTypes(valueTypes(append(items, 0x60), t.Params), t.Results)
	}
	section(1, len(m.Types), items)

	items = nil
	imports := len(m.Imports)
	for _, im := range m.Imports {
		items = uleb(append(name(name(items, im.module), im.name), byte(engines.KindFunc)), im.typ)
	}
	tables, globals := m.Tables, m.Globals
	if m.SharedTable {
		items = m.Lender.Tables[0].encode(append(name(name(items, lender), "table"), byte(engines.KindTable), byte(engines.FuncRef)))
		imports++
		tables = tables[1:]
	}
	if m.SharedMemory {
		items = m.Lender.Memory.encode(append(name(name(items, lender), "memory"), byte(engines.KindMemory)))
		imports++
	}
	if m.Lender != nil {
		gasType := []byte{byte(engines.KindGlobal), byte(engines.I32), 1}
		items = append(name(name(items, lender), fmt.Sprint("g", gasGlobal)), gasType...)
		imports++
		globals = globals[1:]
	}
	section(2, imports, items)

	items = nil
	for _, f := range m.Funcs {
		items = uleb(items, f.Type)
	}
	section(3, len(m.Funcs), items)

	items = nil
	for _, t := range tables {
		items = t.encode(append(items, byte(engines.FuncRef)))
	}
	section(4, len(tables), items)
	if !m.SharedMemory {
		section(5, 1, m.Memory.encode(nil))
	}

	items = nil
	for _, g := range globals {
		mutable := byte(0)
		if g.Mutable {
			mutable = 1
		}
		items = append(g.init.encode(append(items, byte(g.Value), mutable)), opEnd)
	}
	section(6, len(globals), items)

	items, n := append(name(nil, "memory"), byte(engines.KindMemory), 0), 2
	items = append(name(items, "table"), byte(engines.KindTable), 0)
	for i, f := range m.Funcs {
		if f.Export {
			fn := uint32(len(m.Imports) + i)
			items, n = uleb(append(name(items, fmt.Sprint("f", fn)), byte(engines.KindFunc)), fn), n+1
		}
	}
	for i, g := range m.Globals {
		if g.export {
			items, n = uleb(append(name(items, fmt.Sprint("g", i)), byte(engines.KindGlobal)), uint32(i)), n+1
		}
	}
	section(7, n, items)
	if m.Start >= 0 {
		start := uleb(nil, uint32(m.Start))
		out = append(uleb(append(out, 8), uint32(len(start))), start...)
	}

	items = nil
	for _, e := range m.Elems {
		if e.passive {
			items = append(items, 1, 0)
		} else {
			items = append(sleb(append(items, 0, 0x41), int64(e.offset)), opEnd)
		}
		items = uleb(items, uint32(len(e.funcs)))
		for _, f := range e.funcs {
			items = uleb(items, f)
		}
	}
	section(9, len(m.Elems), items)
	if n := uleb(nil, uint32(len(m.Data))); len(m.Data) > 0 {
		out = append(append(out, 12, byte(len(n))), n...)
	}

	items = nil
	for _, f := range m.Funcs {
		code := uleb(nil, uint32(len(f.Locals)))
		for _, l := range f.Locals {
			code = append(code, 1, byte(l))
		}
		code = append(encodeAll(code, f.Body), opEnd)
		items = append(uleb(items, uint32(len(code))), code...)
	}
	section(10, len(m.Funcs), items)

	items = nil
	for _, d := range m.Data {
		if d.passive {
			items = append(items, 1)
		} else {
			items = append(sleb(append(items, 0, 0x41), int64(d.offset)), opEnd)
		}
		items = append(uleb(items, uint32(len(d.bytes))), d.bytes...)
	}
	section(11, len(m.Data), items)
	return out
}

func encodeAll(dst []byte, nodes []*node) []byte {
	for _, n := range nodes {
		dst = n.encode(dst)
	}
	return dst
}

func (n *node) encode(dst []byte) []byte {
	dst = append(encodeAll(dst, n.args), n.code...)
	dst = encodeAll(dst, n.body)
	if n.orElse != nil {
		dst = encodeAll(append(dst, opElse), n.orElse)
	}
	if n.block {
		dst = append(dst, opEnd)
	}
	return dst
}

func (l limits) encode(dst []byte) []byte {
	if l.hasMax {
		return uleb(uleb(append(dst, 1), l.min), l.max)
	}
	return uleb(append(dst, 0), l.min)
}

// String is the module in something like the text format, for people.
func (m *Module) String() string {
	var b strings.Builder
	if m.Lender != nil {
		fmt.Fprintf(&b, "lender {\n%s} %x\nshared memory=%t table=%t\n", m.Lender, m.Lender.Bytes(), m.SharedMemory, m.SharedTable)
	}
	for i, im := range m.Imports {
		fmt.Fprintf(&b, "func %d: import %s.%s %s\n", i, im.module, im.name, m.Types[im.typ])
	}
	fmt.Fprintf(&b, "memory %+v, tables %+v, start %d\n", m.Memory, m.Tables, m.Start)
	for i, g := range m.Globals {
		fmt.Fprintf(&b, "global %d: %s mutable=%t exported=%t = %s\n", i, g.Value, g.Mutable, g.export, g.init.text)
	}
	for i, e := range m.Elems {
		fmt.Fprintf(&b, "elements %d: passive=%t at %d: %v\n", i, e.passive, e.offset, e.funcs)
	}
	for i, d := range m.Data {
		fmt.Fprintf(&b, "data %d: passive=%t at %d: %x\n", i, d.passive, d.offset, d.bytes)
	}
	for i, f := range m.Funcs {
		fmt.Fprintf(&b, "func %d: %s locals %v exported=%t\n", len(m.Imports)+i, m.Types[f.Type], f.Locals, f.Export)
		writeAll(&b, f.Body, "  ")
	}
	return b.String()
}

func writeAll(b *strings.Builder, nodes []*node, indent string) {
	for _, n := range nodes {
		writeAll(b, n.args, indent)
		if n.code == nil {
			writeAll(b, n.body, indent)
			continue
		}
		fmt.Fprintf(b, "%s%s\n", indent, n.text)
		writeAll(b, n.body, indent+"  ")
		if n.orElse != nil {
			fmt.Fprintf(b, "%selse\n", indent)
			writeAll(b, n.orElse, indent+"  ")
		}
		if n.block {
			fmt.Fprintf(b, "%send\n", indent)
		}
	}
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

func name(dst []byte, s string) []byte { return append(uleb(dst, uint32(len(s))), s...) }

func valueTypes(dst []byte, ts []engines.ValueType) []byte {
	dst = uleb(dst, uint32(len(ts)))
	for _, t := range ts {
		dst = append(dst, byte(t))
	}
	return dst
}
