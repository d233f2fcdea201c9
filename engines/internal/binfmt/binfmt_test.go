package binfmt_test

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/engines/internal/binfmt"
)

var (
	numbers   = []engines.ValueType{engines.I32, engines.I64, engines.F32, engines.F64}
	allTypes  = append([]engines.ValueType{engines.V128, engines.FuncRef, engines.ExternRef}, numbers...)
	toNothing = asm.Func(nil, nil)
)

// built is a random module and what Decode must find in it.
type built struct {
	wasm  []byte
	iface binfmt.Interface
}

func drawModule(t *rapid.T) built {
	var (
		m     asm.Module
		iface binfmt.Interface
	)
	types := rapid.SliceOfN(rapid.SampledFrom(allTypes), 0, 5)
	name := rapid.StringN(0, 10, -1)
	memory := func() engines.MemoryType {
		mem := engines.MemoryType{Min: rapid.Uint32Range(0, 65536).Draw(t, "min"), HasMax: rapid.Bool().Draw(t, "hasMax")}
		if mem.HasMax {
			mem.Max = rapid.Uint32Range(mem.Min, 65536).Draw(t, "max")
		}
		return mem
	}
	maxOf := func(mem engines.MemoryType) []uint32 {
		if mem.HasMax {
			return []uint32{mem.Max}
		}
		return nil
	}
	global := func() engines.GlobalType {
		return engines.GlobalType{Value: rapid.SampledFrom(numbers).Draw(t, "global"), Mutable: rapid.Bool().Draw(t, "mutable")}
	}
	zero := map[engines.ValueType]asm.Code{
		engines.I32: asm.Code{}.I32Const(-12345678), engines.I64: asm.Code{}.I64Const(-1 << 63),
		engines.F32: asm.Code{}.F32Const(1), engines.F64: asm.Code{}.F64Const(1),
	}

	for range rapid.IntRange(0, 5).Draw(t, "imports") {
		im := engines.ImportType{Module: name.Draw(t, "module"), Name: name.Draw(t, "name")}
		im.Type.Kind = rapid.SampledFrom([]engines.ExternKind{engines.KindFunc, engines.KindTable, engines.KindGlobal, engines.KindMemory}).Draw(t, "kind")
		switch im.Type.Kind {
		case engines.KindFunc:
			im.Type.Func = asm.Func(types.Draw(t, "params"), types.Draw(t, "results"))
			m.ImportFunc(im.Module, im.Name, im.Type.Func)
		case engines.KindTable:
			m.ImportTable(im.Module, im.Name, 1)
		case engines.KindMemory:
			im.Type.Memory = memory()
			m.ImportMemory(im.Module, im.Name, im.Type.Memory.Min, maxOf(im.Type.Memory)...)
			iface.HasMemory = true
		case engines.KindGlobal:
			im.Type.Global = global()
			m.ImportGlobal(im.Module, im.Name, im.Type.Global)
		}
		iface.Imports = append(iface.Imports, im)
	}
	for i := range rapid.IntRange(0, 5).Draw(t, "definitions") {
		ex := engines.ExportType{Name: fmt.Sprint(name.Draw(t, "name"), i)}
		ex.Type.Kind = rapid.SampledFrom([]engines.ExternKind{engines.KindFunc, engines.KindTable, engines.KindGlobal, engines.KindMemory}).Draw(t, "kind")
		switch ex.Type.Kind {
		case engines.KindFunc:
			ex.Type.Func = asm.Func(types.Draw(t, "params"), types.Draw(t, "results"))
			m.Func(ex.Name, ex.Type.Func, asm.Code{}.Op(asm.Unreachable))
		case engines.KindTable:
			m.Table(ex.Name, 1, 2)
			iface.HasOwnTable = true
		case engines.KindMemory:
			ex.Type.Memory = memory()
			m.Memory(ex.Name, ex.Type.Memory.Min, maxOf(ex.Type.Memory)...)
			iface.HasMemory = true
		case engines.KindGlobal:
			ex.Type.Global = global()
			m.Global(ex.Name, ex.Type.Global, zero[ex.Type.Global.Value])
		}
		iface.Exports = append(iface.Exports, ex)
	}
	if rapid.Bool().Draw(t, "start") {
		iface.HasStart, iface.Start = true, m.Func("", toNothing, nil)
		m.Start(iface.Start)
	}
	return built{m.Bytes(), iface}
}

// same compares interfaces; an empty list and none are the same.
func same(a, b binfmt.Interface) bool {
	return fmt.Sprintf("%+v", a) == fmt.Sprintf("%+v", b)
}

func TestDecodeReadsWhatWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawModule(t)
		got, err := binfmt.Decode(m.wasm)
		if err != nil {
			t.Fatal(err)
		}
		if !same(*got, m.iface) {
			t.Fatalf("Decode = %+v\nwant %+v", *got, m.iface)
		}
	})
}

func TestRewriteNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawModule(t)
		got, err := binfmt.Rewrite(m.wasm, binfmt.Edit{})
		if err != nil || !bytes.Equal(got, m.wasm) {
			t.Fatalf("Rewrite(%x) = %x, %v", m.wasm, got, err)
		}
	})
}

// A rewritten module differs in what the edit says and in nothing else.
func TestRewrite(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawModule(t)
		edit := binfmt.Edit{
			MemoryLimit: rapid.Uint32Range(0, 70000).Draw(t, "limit"),
			DropStart:   rapid.Bool().Draw(t, "dropStart"),
		}
		if m.iface.HasStart {
			edit.Exports = []binfmt.Export{{Name: "added", Kind: engines.KindFunc, Index: m.iface.Start}}
		}
		defined := m.iface
		defined.Exports = append([]engines.ExportType(nil), m.iface.Exports...)
		tooLarge := false
		limited := edit.MemoryLimit > 0 && edit.MemoryLimit < 65536
		for i := range defined.Exports {
			mem := &defined.Exports[i].Type.Memory
			if defined.Exports[i].Type.Kind != engines.KindMemory || !limited {
				continue
			}
			tooLarge = tooLarge || mem.Min > edit.MemoryLimit
			if !mem.HasMax || mem.Max > edit.MemoryLimit {
				mem.Max, mem.HasMax = edit.MemoryLimit, true
			}
		}
		if m.iface.HasStart {
			defined.Exports = append(defined.Exports, engines.ExportType{Name: "added"})
		}
		if edit.DropStart {
			defined.HasStart, defined.Start = false, 0
		}

		wasm, err := binfmt.Rewrite(m.wasm, edit)
		if tooLarge {
			if err == nil || !strings.Contains(err.Error(), "above its limit") {
				t.Fatalf("Rewrite of a memory above the limit: %v", err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := binfmt.Decode(wasm)
		if err != nil {
			t.Fatal(err)
		}
		if !same(*got, defined) {
			t.Fatalf("after %+v: %+v\nwant %+v", edit, *got, defined)
		}
	})
}

func TestElementsTrap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Uint32Range(0, 300).Draw(t, "size")
		offset := rapid.OneOf(rapid.Int32Range(-2, 302), rapid.Int32()).Draw(t, "offset")
		length := rapid.IntRange(0, 3).Draw(t, "length")
		var m asm.Module
		m.Table("", size)
		m.Elem(offset, make([]uint32, length)...)
		iface, err := binfmt.Decode(m.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if want := int64(uint32(offset))+int64(length) > int64(size); iface.ElementsTrap != want {
			t.Fatalf("ElementsTrap = %v, want %v", iface.ElementsTrap, want)
		}
	})
}

func TestMalformed(t *testing.T) {
	header := "\x00asm\x01\x00\x00\x00"
	for name, c := range map[string]struct{ sections, want string }{
		"section cut off":          {"\x01\x05\x01", "unexpected end"},
		"sections out of order":    {"\x03\x01\x00\x01\x01\x00", "not in its place"},
		"section twice":            {"\x01\x01\x00\x01\x01\x00", "not in its place"},
		"unknown section":          {"\x0d\x01\x00", "unknown"},
		"more items than bytes":    {"\x01\x05\xff\xff\xff\xff\x0f", "items are announced"},
		"bytes after the items":    {"\x05\x04\x01\x00\x01\x00", "goes on"},
		"number too long":          {"\x01\x06\x80\x80\x80\x80\x80\x00", "more than 5 bytes"},
		"number above 32 bits":     {"\x01\x05\xff\xff\xff\xff\x7f", "32 bits"},
		"name not UTF-8":           {"\x02\x05\x01\x01\xff\x00\x00", "UTF-8"},
		"type of unknown form":     {"\x01\x04\x01\x61\x00\x00", "unknown form"},
		"struct of wasm-gc":        {"\x01\x04\x01\x5f\x00\x00", "wasm-gc"},
		"group of wasm-gc":         {"\x01\x06\x01\x4e\x01\x5e\x7f\x00", "wasm-gc"},
		"reference of wasm-gc":     {"\x01\x06\x01\x60\x01\x63\x00\x00", "build it for linear memory"},
		"unknown value type":       {"\x01\x05\x01\x60\x01\x00\x00", "value type of unknown form"},
		"shared memory":            {"\x05\x04\x01\x03\x01\x01", "not part of WebAssembly 2.0"},
		"memory too large":         {"\x05\x05\x01\x00\x81\x80\x04", "65537 pages"},
		"export of nothing":        {"\x07\x05\x01\x01a\x00\x00", "there are 0"},
		"function of no type":      {"\x03\x02\x01\x00\x07\x05\x01\x01a\x00\x00", "of type 0"},
		"start of no function":     {"\x08\x01\x00", "there are 0"},
		"start with a result":      {"\x01\x05\x01\x60\x00\x01\x7f\x03\x02\x01\x00\x08\x01\x00", "the start function is of type"},
		"unknown constant":         {"\x06\x05\x01\x7f\x00\x6a\x0b", "constant expression"},
		"global without an end":    {"\x06\x05\x01\x7f\x00\x41\x00", "unexpected end"},
		"unknown mutability":       {"\x06\x06\x01\x7f\x02\x41\x00\x0b", "mutability"},
		"import of unknown kind":   {"\x02\x05\x01\x00\x00\x09\x00", "unknown kind"},
		"import of unknown type":   {"\x02\x05\x01\x00\x00\x00\x05", "of type 5"},
		"element form unknown":     {"\x09\x02\x01\x08", "unknown form"},
		"elements not there":       {"\x09\x0a\x01\x00\x41\x00\x0b\xff\xff\xff\xff\x0f", "items are announced"},
		"functions not there":      {"\x0a\x05\xff\xff\xff\xff\x07", "items are announced"},
		"body not there":           {"\x0a\x04\x01\xff\x7f\x00", "items are announced"},
		"too many locals":          {"\x0a\x0a\x01\x08\x01\xff\xff\xff\xff\x0f\x7f\x0b", "local variables"},
		"data not there":           {"\x0b\x07\x01\x01\xff\xff\xff\xff\x07", "items are announced"},
		"data form unknown":        {"\x0b\x02\x01\x03", "unknown form"},
		"names not there":          {"\x00\x0c\x04name\x01\x05\xff\xff\xff\xff\x07", "items are announced"},
		"names of locals":          {"\x00\x0e\x04name\x02\x07\x01\x00\xff\xff\xff\xff\x07", "items are announced"},
		"name subsection too long": {"\x00\x0a\x04name\x00\x03\x01ab", "goes on"},
		"vector of no constant":    {"\x06\x05\x01\x7b\x00\xfd\x0d", "vector instruction"},
	} {
		_, err := binfmt.Decode([]byte(header + c.sections))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "at byte 0x") {
			t.Errorf("%s: %v, want a place and %q", name, err, c.want)
		}
	}
}

// Each form of an element and of a data segment, and name sections, are read to
// their end.
func TestForms(t *testing.T) {
	for name, sections := range map[string]string{
		"active":                         "\x09\x07\x01\x00\x41\x00\x0b\x01\x00",
		"passive":                        "\x09\x05\x01\x01\x00\x01\x00",
		"active in a table":              "\x09\x09\x01\x02\x00\x41\x00\x0b\x00\x01\x00",
		"declarative":                    "\x09\x05\x01\x03\x00\x01\x00",
		"active expressions":             "\x09\x09\x01\x04\x41\x00\x0b\x01\xd2\x00\x0b",
		"passive expressions":            "\x09\x07\x01\x05\x70\x01\xd0\x70\x0b",
		"active expressions in a table":  "\x09\x0b\x01\x06\x00\x41\x00\x0b\x70\x01\xd2\x00\x0b",
		"declarative expressions":        "\x09\x07\x01\x07\x70\x01\xd2\x00\x0b",
		"active data":                    "\x0b\x08\x01\x00\x41\x00\x0b\x02hi",
		"passive data":                   "\x0b\x05\x01\x01\x02hi",
		"active data in a memory":        "\x0b\x09\x01\x02\x00\x41\x00\x0b\x02hi",
		"data count before code":         "\x0c\x01\x00\x0a\x01\x00\x0b\x01\x00",
		"names":                          "\x00\x19\x04name\x00\x02\x01m\x01\x04\x01\x00\x01f\x02\x06\x01\x00\x01\x00\x01l\x09\x00",
		"another custom section":         "\x00\x06\x04data\xff",
		"vector constant":                "\x06\x16\x01\x7b\x00\xfd\x0c0123456789abcdef\x0b",
		"custom sections stand anywhere": "\x00\x02\x01a\x01\x01\x00\x00\x02\x01a",
	} {
		if _, err := binfmt.Decode([]byte("\x00asm\x01\x00\x00\x00" + sections)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzDecode: whatever the bytes, no panic; and what decodes can be rewritten
// and decodes to the same.
func FuzzDecode(f *testing.F) {
	var m asm.Module
	fn := m.ImportFunc("env", "f", asm.Func(numbers, numbers))
	m.Memory("memory", 1)
	m.Global("g", engines.GlobalType{Value: engines.F64}, asm.Code{}.F64Const(0))
	m.Export("f", engines.KindFunc, fn)
	f.Add(m.Bytes())
	f.Add([]byte("\x00asm"))
	f.Fuzz(func(t *testing.T, data []byte) {
		before, err := binfmt.Decode(data)
		if err != nil {
			return
		}
		out, err := binfmt.Rewrite(data, binfmt.Edit{})
		if err != nil {
			t.Fatalf("decodes but is not rewritten: %v", err)
		}
		after, err := binfmt.Decode(out)
		if err != nil || !reflect.DeepEqual(before, after) {
			t.Fatalf("before %+v\nafter %+v, %v", before, after, err)
		}
	})
}
