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
	gzipMagic    = "\x1f\x8b"
	zstdMagic    = "\x28\xb5\x2f\xfd"
	elfMagic     = "\x7fELF"
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
)

// Check returns nil if data begins like a core module, else an error that says
// what it is instead and what to do about it.
func Check(data []byte) error {
	switch {
	case len(data) == 0:
		return errors.New("the file is empty; build the module again")
	case hasPrefix(data, gzipMagic):
		return errors.New("this is gzip-compressed data, not a module; decompress it first (gunzip)")
	case hasPrefix(data, zstdMagic):
		return errors.New("this is zstd-compressed data, not a module; decompress it first (unzstd)")
	case hasPrefix(data, elfMagic):
		return errors.New("this is a native ELF binary, not a module; a native plugin is configured with native = \"…\"")
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
}

// Decode reads the interface of a module that passes [Check].
func Decode(data []byte) (*Interface, error) {
	if err := Check(data); err != nil {
		return nil, err
	}
	d := decoder{reader: reader{data: data, pos: headerSize}}
	for d.err == nil && d.pos < len(d.data) {
		id, body := d.section()
		d.decodeSection(id, body)
	}
	if d.err != nil {
		return nil, d.err
	}
	return &Interface{Imports: d.imports, Exports: d.exports}, nil
}

// decoder holds the index spaces an export may point into. Tables have no type
// here, so they are only counted.
type decoder struct {
	reader
	types    []engines.FuncType
	funcs    []uint32 // type indices
	memories []engines.MemoryType
	globals  []engines.GlobalType
	tables   int
	imports  []engines.ImportType
	exports  []engines.ExportType
}

func (d *decoder) decodeSection(id byte, body reader) {
	if id > sectionExport || id == sectionCustom || d.err != nil {
		return
	}
	for n := body.count(); n > 0 && body.err == nil; n-- {
		switch id {
		case sectionType:
			d.types = append(d.types, body.funcType())
		case sectionImport:
			d.addImport(&body)
		case sectionFunction:
			d.funcs = append(d.funcs, body.u32())
		case sectionTable:
			body.tableType()
			d.tables++
		case sectionMemory:
			d.memories = append(d.memories, body.limits())
		case sectionGlobal:
			d.globals = append(d.globals, body.globalType())
			body.constExpr()
		case sectionExport:
			d.addExport(&body)
		}
	}
	if body.err != nil {
		d.err = body.err
	}
}

func (d *decoder) addImport(r *reader) {
	im := engines.ImportType{Module: r.name(), Name: r.name()}
	im.Type.Kind = engines.ExternKind(r.byte())
	switch im.Type.Kind {
	case engines.KindFunc:
		index := r.u32()
		d.funcs = append(d.funcs, index)
		im.Type.Func = d.funcType(r, len(d.funcs)-1)
	case engines.KindTable:
		r.tableType()
		d.tables++
	case engines.KindMemory:
		im.Type.Memory = r.limits()
		d.memories = append(d.memories, im.Type.Memory)
	case engines.KindGlobal:
		im.Type.Global = r.globalType()
		d.globals = append(d.globals, im.Type.Global)
	default:
		r.failf("import %s.%s is of unknown kind %d", im.Module, im.Name, im.Type.Kind)
	}
	d.imports = append(d.imports, im)
}

func (d *decoder) addExport(r *reader) {
	ex := engines.ExportType{Name: r.name()}
	ex.Type.Kind = engines.ExternKind(r.byte())
	index := int(r.u32())
	size := 0
	switch ex.Type.Kind {
	case engines.KindFunc:
		size = len(d.funcs)
	case engines.KindTable:
		size = d.tables
	case engines.KindMemory:
		size = len(d.memories)
	case engines.KindGlobal:
		size = len(d.globals)
	}
	if index >= size {
		r.failf("export %q points at %s %d, and there are %d", ex.Name, ex.Type.Kind, index, size)
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
	d.exports = append(d.exports, ex)
}

func (d *decoder) funcType(r *reader, fn int) engines.FuncType {
	t := d.funcs[fn]
	if int64(t) >= int64(len(d.types)) {
		r.failf("function %d is of type %d, and there are %d", fn, t, len(d.types))
		return engines.FuncType{}
	}
	return d.types[t]
}

// LimitMemory returns data with the maximum of every memory that the module
// defines lowered to pages; data itself when there is nothing to change. An
// error means that a memory begins larger than that, or that data is malformed.
// Imported memories are left alone: their limit is the lender's.
func LimitMemory(data []byte, pages uint32) ([]byte, error) {
	if err := Check(data); err != nil {
		return nil, err
	}
	r := reader{data: data, pos: headerSize}
	for r.err == nil && r.pos < len(data) {
		start := r.pos
		id, body := r.section()
		if id != sectionMemory || r.err != nil {
			continue
		}
		n := body.count()
		payload := binary.AppendUvarint(nil, uint64(n))
		for range n {
			m := body.limits()
			if body.err != nil {
				break
			}
			if m.Min > pages {
				return nil, fmt.Errorf("the module's memory begins with %d pages of 64 KiB, above its limit of %d", m.Min, pages)
			}
			if !m.HasMax || m.Max > pages {
				m.Max = pages
			}
			payload = append(payload, 1) // limits with a maximum
			payload = binary.AppendUvarint(payload, uint64(m.Min))
			payload = binary.AppendUvarint(payload, uint64(m.Max))
		}
		if body.err != nil {
			return nil, body.err
		}
		out := append([]byte(nil), data[:start]...)
		out = append(out, sectionMemory)
		out = binary.AppendUvarint(out, uint64(len(payload)))
		out = append(out, payload...)
		return append(out, data[r.pos:]...), nil
	}
	return data, r.err
}
