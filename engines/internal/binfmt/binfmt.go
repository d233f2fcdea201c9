// Package binfmt reads what an engine adapter must know of a WebAssembly core
// module before or beside its engine: whether the bytes are a core module at
// all, what the module imports and exports, and how large its memories may grow.
//
// It follows the binary format of the WebAssembly Core Specification 2.0
// (https://www.w3.org/TR/wasm-core-2/#binary-format) and validates no more than
// it needs to read: validation is the engine's work. It never panics, whatever
// the bytes.
package binfmt

import (
	"encoding/binary"
	"errors"
	"fmt"

	"forgeone.dev/forgeone/engines"
)

const (
	magic        = "\x00asm"
	version      = 1
	headerSize   = 8
	componentBit = 1 << 16 // the layer field of the component model's preamble
)

// Section ids of the binary format.
const (
	sectionCustom   = 0
	sectionType     = 1
	sectionImport   = 2
	sectionFunction = 3
	sectionTable    = 4
	sectionMemory   = 5
	sectionGlobal   = 6
	sectionExport   = 7
	sectionStart    = 8
	sectionElement  = 9
	sectionCode     = 10
	sectionData     = 11
)

const native = "a native binary, not a module; a native plugin is configured with native = \"…\""

// formats are what people take for modules, by how it begins.
var formats = []struct{ magic, what string }{
	{"\x1f\x8b", "gzip-compressed data, not a module; decompress it first (gunzip)"},
	{"\x28\xb5\x2f\xfd", "zstd-compressed data, not a module; decompress it first (unzstd)"},
	{"PK\x03\x04", "a zip archive, not a module; take the module out of it (unzip)"},
	{"\x7fELF", native},
	{"\xcf\xfa\xed\xfe", native}, // Mach-O
	{"\xca\xfe\xba\xbe", native}, // Mach-O of several CPUs
	{"MZ", native},               // Windows
	{"BC\xc0\xde", "LLVM bitcode, not a module; link it first (wasm-ld)"},
	{"<", "HTML or XML, not a module; what it was fetched from may have answered with an error page"},
	{"AGFzb", "a module in base64; decode it first (base64 -d)"},
}

// Check returns nil if data begins like a core module, else an error that says
// what it is instead and what to do about it.
func Check(data []byte) error {
	for _, f := range formats {
		if hasPrefix(data, f.magic) {
			return fmt.Errorf("this is %s", f.what)
		}
	}
	switch {
	case len(data) == 0:
		return errors.New("the file is empty; build the module again")
	case isText(data):
		return errors.New("this is the WebAssembly text format, not a binary; convert it first (wat2wasm)")
	case len(data) < headerSize && hasPrefix([]byte(magic+"\x01\x00\x00\x00"), string(data)):
		return fmt.Errorf("the header is cut off after %d of %d bytes; fetch or build the module again", len(data), headerSize)
	case !hasPrefix(data, magic) || len(data) < headerSize:
		return errors.New(`this is not WebAssembly: the file does not begin with "\0asm"`)
	}
	switch v := binary.LittleEndian.Uint32(data[4:]); {
	case v == version:
		return nil
	case v >= componentBit:
		return errors.New("this is a component (component model), not a core module; " +
			"build for wasm32-wasip1 or wasm32-unknown-unknown, or extract the core module (wasm-tools component unbundle)")
	default:
		return fmt.Errorf("binary format version %d is unknown; only version %d exists", v, version)
	}
}

func hasPrefix(data []byte, prefix string) bool {
	return len(data) >= len(prefix) && string(data[:len(prefix)]) == prefix
}

// isText reports whether data looks like the text format: white space, then a
// parenthesis or a line comment.
func isText(data []byte) bool {
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case ' ', '\t', '\r', '\n':
		case '(':
			return true
		case ';':
			return i+1 < len(data) && data[i+1] == ';'
		default:
			return false
		}
	}
	return false
}

// Interface is what a module asks of its surroundings and offers to them, in
// the order of the binary.
type Interface struct {
	Imports []engines.ImportType
	Exports []engines.ExportType
	// HasMemory reports whether there is a memory 0, imported or defined.
	HasMemory bool
	// HasOwnTable reports whether the module defines a table.
	HasOwnTable bool
	// HasStart reports whether there is a start function, and Start is its index.
	HasStart bool
	Start    uint32
	// ElementsTrap reports whether an active element segment lies outside its
	// table in every instance. A table that is imported, or an offset that is,
	// is not looked at.
	ElementsTrap bool
}

// Decode reads the interface of a module, and the lengths that the rest of it
// announces: an engine allocates by those before it reads what they promise, so
// that a few bytes could claim all memory.
func Decode(data []byte) (*Interface, error) {
	d := decoder{}
	if err := eachSection(data, func(id byte, body *reader, _ []byte) { d.section(id, body) }); err != nil {
		return nil, err
	}
	d.iface.HasMemory = len(d.memories) > 0
	return &d.iface, nil
}

// eachSection calls f for each section of data, with its id, its contents and
// the bytes of the whole section. It checks that the sections that are not
// custom come once and in order, and that f reads to the end what it reads.
func eachSection(data []byte, f func(id byte, body *reader, whole []byte)) error {
	if err := Check(data); err != nil {
		return err
	}
	r := reader{data: data, pos: headerSize}
	for last := byte(0); r.err == nil && r.pos < len(data); {
		start := r.pos
		id := r.byte()
		size := r.u32()
		bodyStart := r.pos
		body := reader{data: r.bytes(int(size)), base: bodyStart}
		if id != sectionCustom {
			if rank := sectionRank(id); rank <= last {
				r.failf("section %d is unknown, or not in its place", id)
			} else {
				last = rank
			}
		}
		if r.err != nil {
			break
		}
		f(id, &body, data[start:r.pos])
		if body.pos > 0 && body.pos < len(body.data) {
			body.failf("section %d goes on after its last item", id)
		}
		r.err = body.err
	}
	return r.err
}

// sectionRank is a section's place in the order of sections, 0 if there is no
// such section: data count (12) comes before code (10).
func sectionRank(id byte) byte {
	switch {
	case id <= 9:
		return id
	case id == 12:
		return 10
	case id <= 11:
		return id + 1
	}
	return 0
}

// decoder holds the index spaces that an export may point into.
type decoder struct {
	types    []engines.FuncType
	funcs    []uint32 // type indices
	memories []engines.MemoryType
	globals  []engines.GlobalType
	tables   []table
	locals   int // of all functions so far
	iface    Interface
}

type table struct {
	imported bool
	size     uint32 // at the beginning, or at least if imported
}

func (d *decoder) section(id byte, r *reader) {
	if id == sectionStart {
		d.iface.HasStart, d.iface.Start = true, r.u32()
		if t := d.funcType(r, d.iface.Start); len(t.Params)+len(t.Results) > 0 {
			r.failf("the start function is of type %s", t)
		}
		return
	}
	if id == sectionCustom {
		r.nameSection()
		return
	}
	if id > sectionData {
		return
	}
	for n := r.count(); n > 0 && r.err == nil; n-- {
		switch id {
		case sectionType:
			d.types = append(d.types, r.funcType())
		case sectionImport:
			d.addImport(r)
		case sectionFunction:
			d.funcs = append(d.funcs, r.u32())
		case sectionTable:
			d.tables = append(d.tables, table{size: r.tableType()})
			d.iface.HasOwnTable = true
		case sectionMemory:
			d.memories = append(d.memories, r.memoryType())
		case sectionGlobal:
			d.globals = append(d.globals, r.globalType())
			r.constExpr()
		case sectionExport:
			d.addExport(r)
		case sectionElement:
			d.addElement(r)
		case sectionCode:
			d.locals += r.function()
			if d.locals > maxLocals {
				r.failf("the functions so far have %d local variables, and at most %d are accepted", d.locals, maxLocals)
			}
		case sectionData:
			r.dataSegment()
		}
	}
}

func (d *decoder) addImport(r *reader) {
	im := engines.ImportType{Module: r.name(), Name: r.name()}
	im.Type.Kind = engines.ExternKind(r.byte())
	switch im.Type.Kind {
	case engines.KindFunc:
		d.funcs = append(d.funcs, r.u32())
		im.Type.Func = d.funcType(r, uint32(len(d.funcs)-1))
	case engines.KindTable:
		d.tables = append(d.tables, table{imported: true, size: r.tableType()})
	case engines.KindMemory:
		im.Type.Memory = r.memoryType()
		d.memories = append(d.memories, im.Type.Memory)
	case engines.KindGlobal:
		im.Type.Global = r.globalType()
		d.globals = append(d.globals, im.Type.Global)
	default:
		r.failf("import %s.%s is of unknown kind %d", im.Module, im.Name, im.Type.Kind)
	}
	d.iface.Imports = append(d.iface.Imports, im)
}

func (d *decoder) addExport(r *reader) {
	ex := engines.ExportType{Name: r.name()}
	ex.Type.Kind = engines.ExternKind(r.byte())
	index := r.u32()
	there := 0
	switch ex.Type.Kind {
	case engines.KindFunc:
		there = len(d.funcs)
	case engines.KindTable:
		there = len(d.tables)
	case engines.KindMemory:
		there = len(d.memories)
	case engines.KindGlobal:
		there = len(d.globals)
	}
	if int64(index) >= int64(there) {
		r.failf("export %q points at %s %d, and there are %d", ex.Name, ex.Type.Kind, index, there)
		return
	}
	switch ex.Type.Kind {
	case engines.KindFunc:
		ex.Type.Func = d.funcType(r, index)
	case engines.KindMemory:
		ex.Type.Memory = d.memories[index]
	case engines.KindGlobal:
		ex.Type.Global = d.globals[index]
	}
	d.iface.Exports = append(d.iface.Exports, ex)
}

func (d *decoder) addElement(r *reader) {
	s := r.element()
	if !s.active || !s.offsetKnown || int64(s.table) >= int64(len(d.tables)) {
		return
	}
	if t := d.tables[s.table]; !t.imported && uint64(s.offset)+uint64(s.length) > uint64(t.size) {
		d.iface.ElementsTrap = true
	}
}

func (d *decoder) funcType(r *reader, fn uint32) engines.FuncType {
	if int64(fn) >= int64(len(d.funcs)) {
		r.failf("function %d is named, and there are %d", fn, len(d.funcs))
		return engines.FuncType{}
	}
	t := d.funcs[fn]
	if int64(t) >= int64(len(d.types)) {
		r.failf("function %d is of type %d, and there are %d", fn, t, len(d.types))
		return engines.FuncType{}
	}
	return d.types[t]
}
