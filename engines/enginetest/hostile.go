package enginetest

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"forgeone.dev/forgeone/engines"
)

var hostileCases = []testCase{
	{name: "hostile/modules beyond a limit", needs: "Metering", run: testHostile},
}

// hostile modules claim more than a module may have, or hide it; want is what
// the error says, "" where there is none.
var hostile = []struct {
	name string
	wasm func() []byte
	want string
}{
	{"10⁶ functions", func() []byte {
		return binaryModule(section(1, items(1, noType)), section(3, items(million, "\x00")), section(10, items(million, "\x02\x00\x0b")))
	}, "1000000 functions"},
	{"10⁶ types", func() []byte { return binaryModule(section(1, items(million, noType))) }, "1000000 types"},
	{"10⁶ imports", func() []byte {
		return binaryModule(section(1, items(1, noType)), section(2, items(million, "\x01m\x01f\x00\x00")))
	}, "1000000 imports"},
	{"10⁶ exports", func() []byte {
		return binaryModule(section(5, items(1, "\x00\x01")), section(7, items(million, "\x01m\x02\x00")))
	}, "1000000 exports"},
	{"10⁶ globals", func() []byte { return binaryModule(section(6, items(million, "\x7f\x00\x41\x00\x0b"))) }, "1000000 globals"},
	{"10⁶ tables", func() []byte { return binaryModule(section(4, items(million, "\x70\x00\x00"))) }, "1000000 tables"},
	{"10⁶ data segments", func() []byte { return binaryModule(section(11, items(million, "\x01\x00"))) }, "1000000 data segments"},
	{"10⁶ data segments announced", func() []byte { return binaryModule(section(12, uleb(million))) }, "1000000 data segments"},
	{"10⁶ element segments", func() []byte { return binaryModule(section(9, items(million, "\x01\x00\x00"))) }, "1000000 element segments"},
	{"10⁶ parameters", func() []byte {
		return binaryModule(section(1, "\x01\x60"+items(million, "\x7f")+"\x00"))
	}, "1000000 parameters"},
	{"2³² local variables", func() []byte { return oneFunction("\x01\xff\xff\xff\xff\x0f\x7f\x0b") }, "4294967295 local variables"},
	{"2³² local variables in two groups", func() []byte {
		return oneFunction("\x02\xff\xff\xff\xff\x07\x7f\xff\xff\xff\xff\x07\x7e\x0b")
	}, "local variables"},
	{"local variables of many functions", func() []byte {
		body := "\x01" + uleb(40_000) + "\x7f\x0b"
		return binaryModule(section(1, items(1, noType)), section(3, items(1000, "\x00")), section(10, items(1000, uleb(len(body))+body)))
	}, "local variables"},
	{"10⁶ nested blocks", func() []byte {
		return oneFunction("\x00" + strings.Repeat("\x02\x40", million) + strings.Repeat("\x0b", million+1))
	}, "nested blocks"},
	{"nested blocks that do not end", func() []byte { return oneFunction("\x00" + strings.Repeat("\x03\x40", million)) }, "nested blocks"},
	{"a br_table of 10⁶ labels", func() []byte {
		return oneFunction("\x00\x41\x00\x0e" + items(million, "\x00") + "\x00\x0b")
	}, "1000000 labels"},
	{"a function of 20 MiB", func() []byte { return oneFunction("\x00" + strings.Repeat("\x01", 20<<20) + "\x0b") }, "bytes in a function"},
	{"a module of 65 MiB", func() []byte { return binaryModule(section(0, "\x01x"+strings.Repeat("x", 65<<20))) }, "bytes, above the limit"},
	{"a table of 10⁸", func() []byte { return binaryModule(section(4, "\x01\x70\x00"+uleb(100*million))) }, "100000000 table entries"},
	{"many tables that are large together", func() []byte {
		return binaryModule(section(4, items(20, "\x70\x00"+uleb(100_000))))
	}, "2000000 table entries"},
	{"a memory of 65,536 pages", func() []byte { return binaryModule(section(5, "\x01\x00"+uleb(65_536))) }, "65536 pages"},
	{"a memory of 65,537 pages", func() []byte { return binaryModule(section(5, "\x01\x00"+uleb(65_537))) }, "65537 pages"},
	{"two memories", func() []byte { return binaryModule(section(5, items(2, "\x00\x01"))) }, "2 memories"},
	{"a number of six bytes", func() []byte { return binaryModule("\x01\x86\x80\x80\x80\x80\x00") }, "number"},
	{"a number of 33 bits", func() []byte { return binaryModule("\x01\xff\xff\xff\xff\x7f") }, "number"},
	{"a section twice", func() []byte { return binaryModule(section(1, "\x00"), section(1, "\x00")) }, "section 1"},
	{"a section that is unknown", func() []byte { return binaryModule(section(14, "\x00")) }, "section 14"},

	// What is not needed is left out, however large.
	{"a name of 20 MiB", func() []byte {
		name := uleb(20<<20) + strings.Repeat("n", 20<<20)
		return binaryModule(section(0, "\x04name\x00"+uleb(len(name))+name))
	}, ""},
	{"60 MiB of custom sections", func() []byte {
		return binaryModule(strings.Repeat(section(0, "\x01x"+strings.Repeat("x", 1<<20)), 60))
	}, ""},
	{"10⁶ custom sections", func() []byte { return binaryModule(strings.Repeat(section(0, "\x01x"), million)) }, ""},
}

const (
	million = 1_000_000
	noType  = "\x60\x00\x00" // () -> ()
)

func binaryModule(sections ...string) []byte {
	return []byte("\x00asm\x01\x00\x00\x00" + strings.Join(sections, ""))
}

func section(id byte, body string) string { return string([]byte{id}) + uleb(len(body)) + body }

// items is a vector of n that are alike.
func items(n int, item string) string { return uleb(n) + strings.Repeat(item, n) }

// oneFunction is a module with one function, of that body with its locals.
func oneFunction(body string) []byte {
	return binaryModule(section(1, items(1, noType)), section(3, "\x01\x00"), section(10, "\x01"+uleb(len(body))+body))
}

func uleb(n int) string { return string(binary.AppendUvarint(nil, uint64(n))) }

// leftBehind is how much more memory the process may hold after all of them,
// for what an allocator keeps: most of them are a few bytes that claim more, or
// are larger themselves.
const leftBehind = 48 << 20

// Each is refused by the name of what is too many, and nothing is left of it.
func testHostile(t *testing.T, e engines.WasmEngine) {
	before := footprint()
	for _, c := range hostile {
		t.Run(c.name, func(t *testing.T) {
			mod, err := e.Compile(bg(), c.wasm(), engines.CompileOptions{Fuel: 1000})
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				closeAll(t, mod)
				return
			}
			if err == nil {
				closeAll(t, mod)
				t.Fatal("it compiles")
			}
			wantAs[*engines.CompileError](t, err)
			if !strings.Contains(err.Error(), c.want) || len(err.Error()) > 500 {
				t.Errorf("%q, want it to say %q, and no more than needed", err, c.want)
			}
		})
	}
	if after := footprint(); !raced && after > before+leftBehind {
		t.Errorf("the process held %d MiB before, and holds %d after", before>>20, after>>20)
	}
}

// foreign are files that are no modules, by what they begin with.
var foreign = []struct{ name, data, want string }{
	{"empty", "", "empty"},
	{"half a header", "\x00asm", "cut off"},
	{"any text", "hello, world", "not WebAssembly"},
	{"text format", "(module (func))", "text format"},
	{"indented text format", "\n  ;; comment\n  (module)", "text format"},
	{"JavaScript", "export const add = (a, b) => a + b", "not WebAssembly"},
	{"HTML", "<!DOCTYPE html>\n<html><body>404", "HTML"},
	{"base64", "AGFzbQEAAAA=", "base64"},
	{"gzip", "\x1f\x8b\x08\x00\x00\x00\x00\x00", "gzip"},
	{"zstd", "\x28\xb5\x2f\xfd\x00\x00\x00\x00", "zstd"},
	{"zip", "PK\x03\x04\x14\x00\x00\x00", "zip"},
	{"ELF", "\x7fELF\x02\x01\x01\x00\x00", "native"},
	{"Mach-O", "\xcf\xfa\xed\xfe\x07\x00\x00\x01", "native"},
	{"Mach-O of several CPUs", "\xca\xfe\xba\xbe\x00\x00\x00\x02", "native"},
	{"Windows", "MZ\x90\x00\x03\x00\x00\x00", "native"},
	{"LLVM bitcode", "BC\xc0\xde\x35\x14\x00\x00", "LLVM"},
	{"component", "\x00asm\x0d\x00\x01\x00", "component"},
	{"future version", "\x00asm\x02\x00\x00\x00", "version 2"},
	{"backwards", "msa\x00\x01\x00\x00\x00", "not WebAssembly"},
}

func testNotAModule(t *testing.T, e engines.WasmEngine) {
	for _, c := range foreign {
		for _, data := range [][]byte{[]byte(c.data), append([]byte(c.data), bytes.Repeat([]byte(" "), 100)...)} {
			if len(c.data) < 5 && len(data) > 5 {
				continue // it is something else then
			}
			mod, err := e.Compile(bg(), data, engines.CompileOptions{})
			if err == nil {
				closeAll(t, mod)
				t.Errorf("%s compiles", c.name)
				continue
			}
			compileErr := wantAs[*engines.CompileError](t, err)
			if compileErr.Engine != e.Info().Name || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %q, want it to name the engine and say %q", c.name, err, c.want)
			}
		}
	}
}
