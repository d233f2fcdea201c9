package enginetest

import (
	"bytes"
	"context"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

var mappedCases = []testCase{
	{name: "mapped/refused", needs: "MappedMemory", refusal: true, run: testMappedRefused},
	{name: "mapped/the file's bytes are the memory's", needs: "MappedMemory", run: testMappedBytes},
	{name: "mapped/writes are private", needs: "MappedMemory", run: testMappedPrivate},
	{name: "mapped/reset gives the file's bytes back", needs: "MappedMemory", run: testMappedReset},
	{name: "mapped/another file takes the place of one", needs: "MappedMemory", run: testMappedAgain},
	{name: "mapped/growth keeps what is there", needs: "MappedMemory", run: testMappedGrow},
	{name: "mapped/access across the border", needs: "MappedMemory", run: testMappedBorder},
	{name: "mapped/what does not fit", needs: "MappedMemory", run: testMappedErrors},
	{name: "mapped/only where it is asked for", needs: "MappedMemory", run: testMappedOff},
	{name: "mapped/functions of a closed importer", needs: "MappedMemory", run: testMappedImporter},
	{name: "mapped/an instance that a start function makes", needs: "MappedMemory", run: testMappedNested},
	{name: "mapped/many instances", needs: "MappedMemory", run: testMappedMany},
}

var mapped = engines.CompileOptions{MappedMemory: true}

const page = engines.PageSize

// fourPages has a memory of four pages that may grow to eight, with a word in
// the first and one in the last, and functions on it.
func fourPages() *asm.Module { return fourPagesOf(8) }

// fourPagesOf is fourPages with another maximum, or none.
func fourPagesOf(max ...uint32) *asm.Module {
	m := new(asm.Module)
	m.Memory("memory", 4, max...)
	m.Func("load", i32ToI32, asm.Code{}.LocalGet(0).I32Load(0))
	m.Func("store", asm.Func(asm.Types(i32, i32), nil), asm.Code{}.LocalGet(0).LocalGet(1).I32Store(0))
	m.Func("grow", i32ToI32, asm.Code{}.LocalGet(0).MemoryGrow())
	three := asm.Func(asm.Types(i32, i32, i32), nil)
	arguments := asm.Code{}.LocalGet(0).LocalGet(1).LocalGet(2)
	m.Func("copy", three, append(arguments[:len(arguments):len(arguments)], 0xfc, 10, 0, 0)) // memory.copy
	m.Func("fill", three, append(arguments[:len(arguments):len(arguments)], 0xfc, 11, 0))    // memory.fill
	m.Data(8, "own!")
	m.Data(4*page-8, "last")
	return m
}

// fileOf is a file of that many pages, in which each word is seed and its place.
func fileOf(t testing.TB, pages int, seed byte) (*os.File, []byte) {
	t.Helper()
	content := make([]byte, pages*page)
	for i := range content {
		content[i] = seed ^ byte(i) ^ byte(i>>8)
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(t, file) })
	if _, err := file.Write(content); err != nil {
		t.Fatal(err)
	}
	return file, content
}

func mapMemory(t testing.TB, inst engines.Instance, file *os.File, pages int) {
	t.Helper()
	if err := inst.(engines.MemoryMapper).MapMemory("memory", file, uint64(pages)*page); err != nil {
		t.Fatalf("MapMemory: %v", err)
	}
}

func resetMemory(t testing.TB, inst engines.Instance) {
	t.Helper()
	if err := inst.(engines.MemoryMapper).ResetMemory("memory"); err != nil {
		t.Fatalf("ResetMemory: %v", err)
	}
}

// contents is all of the instance's memory.
func contents(t testing.TB, inst engines.Instance) []byte {
	t.Helper()
	mem := inst.Memory("memory")
	all := make([]byte, mem.Size())
	if !mem.Read(0, all) {
		t.Fatal("the memory cannot be read")
	}
	return all
}

// wantContents fails the test unless the memory is what is given, and zeros after.
func wantContents(t testing.TB, inst engines.Instance, want []byte) {
	t.Helper()
	got := contents(t, inst)
	for i := range got {
		w := byte(0)
		if i < len(want) {
			w = want[i]
		}
		if got[i] != w {
			t.Fatalf("byte %#x of the memory is %#x, want %#x", i, got[i], w)
		}
	}
}

func run(t testing.TB, inst engines.Instance, name string, params ...uint64) {
	t.Helper()
	if _, err := invoke(inst, name, params...); err != nil {
		t.Fatalf("%s(%d): %v", name, params, err)
	}
}

func word(b []byte) uint64 {
	return uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24
}

func testMappedRefused(t *testing.T, e engines.WasmEngine) {
	_, err := e.Compile(bg(), fourPages().Bytes(), mapped)
	wantAs[*engines.UnsupportedError](t, err)
}

func testMappedBytes(t *testing.T, e engines.WasmEngine) {
	file, image := fileOf(t, 2, 0x5a)
	if _, err := file.Seek(100, 0); err != nil { // where the file is read is of no account
		t.Fatal(err)
	}
	inst := instantiate(t, compile(t, e, fourPages(), mapped), engines.Imports{})
	expected := append(image, contents(t, inst)[2*page:]...)
	if string(expected[4*page-8:4*page-4]) != "last" {
		t.Fatal("the data segment is not in the memory")
	}
	mapMemory(t, inst, file, 2)
	wantContents(t, inst, expected)
	for _, at := range []uint64{0, 8, page - 2, 2*page - 4, 2*page - 2, 4*page - 8} {
		want(t, inst, word(expected[at:]), "load", at)
	}
	_, err := invoke(inst, "load", 4*page-3)
	wantTrap(t, err, engines.TrapMemoryBounds)
}

func testMappedPrivate(t *testing.T, e engines.WasmEngine) {
	file, image := fileOf(t, 4, 0x5a)
	mod := compile(t, e, fourPages(), mapped)
	one, other := instantiate(t, mod, engines.Imports{}), instantiate(t, mod, engines.Imports{})
	mapMemory(t, one, file, 4)
	mapMemory(t, other, file, 4)
	run(t, one, "store", 100, 0xcafebabe)
	one.Memory("memory").Write(3*page, []byte("written by the host"))
	want(t, one, 0xcafebabe, "load", 100)
	wantContents(t, other, image)
	late := instantiate(t, mod, engines.Imports{})
	mapMemory(t, late, file, 4)
	wantContents(t, late, image)
	if got, err := os.ReadFile(file.Name()); err != nil || !bytes.Equal(got, image) {
		t.Errorf("the file has changed (%v)", err)
	}
}

func testMappedReset(t *testing.T, e engines.WasmEngine) {
	file, image := fileOf(t, 2, 0x5a)
	inst := instantiate(t, compile(t, e, fourPages(), mapped), engines.Imports{})
	before := contents(t, inst)
	resetMemory(t, inst) // nothing is mapped, so nothing is given up
	wantContents(t, inst, before)
	again, err := os.Open(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	mapMemory(t, inst, again, 2)
	closeAll(t, again) // the mapping goes on without it
	expected := append(image, before[2*page:]...)
	for range 3 {
		run(t, inst, "store", 0, 1)
		run(t, inst, "fill", page-10, 0xee, page+10)
		run(t, inst, "store", 2*page, 2) // beyond what is mapped: stays
		copy(expected[2*page:], []byte{2, 0, 0, 0})
		resetMemory(t, inst)
		wantContents(t, inst, expected)
		want(t, inst, word(expected), "load", 0)
	}
}

func testMappedAgain(t *testing.T, e engines.WasmEngine) {
	first, _ := fileOf(t, 3, 0x5a)
	second, image := fileOf(t, 2, 0xa5)
	inst := instantiate(t, compile(t, e, fourPages(), mapped), engines.Imports{})
	mapMemory(t, inst, first, 3)
	run(t, inst, "store", 2*page+4, 7)
	expected := append(image, contents(t, inst)[2*page:]...)
	mapMemory(t, inst, second, 2)
	wantContents(t, inst, expected)
	run(t, inst, "store", 4, 7)
	resetMemory(t, inst)
	wantContents(t, inst, expected)
	mapMemory(t, inst, second, 0) // no bytes are mapped, and those that were stay
	run(t, inst, "store", 4, 7)
	resetMemory(t, inst)
	wantContents(t, inst, expected)
}

func testMappedGrow(t *testing.T, e engines.WasmEngine) {
	file, image := fileOf(t, 4, 0x5a)
	inst := instantiate(t, compile(t, e, fourPages(), mapped), engines.Imports{})
	mapMemory(t, inst, file, 4)
	run(t, inst, "store", 16, 0xcafebabe)
	written := bytes.Clone(image)
	copy(written[16:], "\xbe\xba\xfe\xca")
	want(t, inst, 4, "grow", 1)
	wantContents(t, inst, written)
	if previous, ok := inst.Memory("memory").Grow(3); !ok || previous != 5 {
		t.Fatalf("Grow(3) = %d, %v, want 5, true", previous, ok)
	}
	wantContents(t, inst, written)
	want(t, inst, math.MaxUint32, "grow", 1)
	run(t, inst, "store", 8*page-4, 9)
	resetMemory(t, inst)
	wantContents(t, inst, append(append(bytes.Clone(image), make([]byte, 4*page-4)...), 9))
	mapMemory(t, inst, file, 4)
	want(t, inst, 9, "load", 8*page-4)

	// Nor does it move where no maximum is declared.
	for _, m := range []*asm.Module{fourPagesOf(), fourPagesOf(65536)} {
		inst := instantiate(t, compile(t, e, m, mapped), engines.Imports{})
		mapMemory(t, inst, file, 4)
		for pages := uint64(4); pages < 2000; pages *= 2 {
			want(t, inst, pages, "grow", pages)
			run(t, inst, "store", 16, 1)
			run(t, inst, "store", pages*page-4, 1)
			resetMemory(t, inst)
			want(t, inst, word(image[16:]), "load", 16)
		}
	}
}

func testMappedBorder(t *testing.T, e engines.WasmEngine) {
	file, image := fileOf(t, 2, 0x5a)
	inst := instantiate(t, compile(t, e, fourPages(), mapped), engines.Imports{})
	expected := append(image, contents(t, inst)[2*page:]...)
	mapMemory(t, inst, file, 2)
	run(t, inst, "store", 2*page-2, 0x04030201)
	copy(expected[2*page-2:], "\x01\x02\x03\x04")
	want(t, inst, 0x04030201, "load", 2*page-2)
	run(t, inst, "copy", page+page/2, page-100, page) // overlapping, from the file to beyond
	copy(expected[page+page/2:], bytes.Clone(expected[page-100:2*page-100]))
	wantContents(t, inst, expected)
	run(t, inst, "copy", 8, 3*page, 200) // back
	copy(expected[8:], expected[3*page:3*page+200])
	run(t, inst, "fill", 2*page-5, 0xab, 10)
	copy(expected[2*page-5:], bytes.Repeat([]byte{0xab}, 10))
	wantContents(t, inst, expected)
	// What traps writes nothing.
	_, err := invoke(inst, "fill", 2*page-5, 0xcd, 3*page)
	wantTrap(t, err, engines.TrapMemoryBounds)
	_, err = invoke(inst, "copy", 2*page-5, 0, 3*page)
	wantTrap(t, err, engines.TrapMemoryBounds)
	wantContents(t, inst, expected)
}

func testMappedErrors(t *testing.T, e engines.WasmEngine) {
	file, _ := fileOf(t, 6, 0x5a)
	short, _ := fileOf(t, 1, 0x5a)
	closed, _ := fileOf(t, 4, 0x5a)
	shut, err := os.Open(closed.Name())
	if err != nil {
		t.Fatal(err)
	}
	closeAll(t, shut)
	unreadable, err := os.OpenFile(closed.Name(), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unreadable.Close()
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()

	inst := instantiate(t, compile(t, e, fourPages(), mapped), engines.Imports{})
	mapper := inst.(engines.MemoryMapper)
	before := contents(t, inst)
	for _, c := range []struct {
		name string
		file *os.File
		size uint64
		want string
	}{
		{"memory", file, page + 1, "not a multiple"},
		{"memory", file, page - 1, "not a multiple"},
		{"memory", file, 5 * page, "the memory has 262144"},
		{"memory", file, math.MaxUint64 - page + 1, "the memory has 262144"},
		{"memory", short, 2 * page, "has 65536 bytes"},
		{"memory", shut, page, "closed"},
		{"memory", unreadable, page, "denied"},
		{"memory", dir, page, "not a regular file"},
		{"absent", file, page, "exports nothing of that name"},
		{"load", file, page, "it is a func, not a memory"},
	} {
		if err := mapper.MapMemory(c.name, c.file, c.size); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("MapMemory(%q, %s, %#x) = %v, want an error that says %q", c.name, c.file.Name(), c.size, err, c.want)
		}
		wantContents(t, inst, before)
	}
	wantAs[*engines.ExportError](t, mapper.ResetMemory("absent"))
	wantAs[*engines.ExportError](t, mapper.ResetMemory("load"))
	resetMemory(t, inst)
	wantContents(t, inst, before)

	importer := new(asm.Module)
	importer.ImportMemory("lib", "memory", 1)
	importer.Export("memory", engines.KindMemory, 0)
	lent := instantiate(t, compile(t, e, importer, mapped), lend(inst))
	err = lent.(engines.MemoryMapper).MapMemory("memory", file, page)
	if wantAs[*engines.ExportError](t, err); !strings.Contains(err.Error(), "it is imported") {
		t.Errorf("MapMemory of a memory that is lent: %v", err)
	}
	wantContents(t, inst, before)

	closeAll(t, lent, inst)
	wantIs(t, mapper.MapMemory("memory", file, page), engines.ErrClosed)
	wantIs(t, mapper.ResetMemory("memory"), engines.ErrClosed)
}

func testMappedOff(t *testing.T, e engines.WasmEngine) {
	file, _ := fileOf(t, 1, 0x5a)
	inst := load(t, e, fourPages())
	before := contents(t, inst)
	if mapper, ok := inst.(engines.MemoryMapper); ok {
		if err := mapper.MapMemory("memory", file, page); err == nil {
			t.Error("MapMemory succeeded where the module was compiled without MappedMemory")
		}
		if err := mapper.ResetMemory("memory"); err == nil {
			t.Error("ResetMemory succeeded where the module was compiled without MappedMemory")
		}
	}
	wantContents(t, inst, before)
}

// What an importer has put into its lender's table uses its memory, and can be
// called when it is closed.
func testMappedImporter(t *testing.T, e engines.WasmEngine) {
	lib := new(asm.Module)
	lib.Table("table", 1)
	lib.Memory("memory", 1, 4)
	lib.Func("call", toI32, asm.Code{}.I32Const(0).CallIndirect(lib.Type(toI32)))
	lib.Func("load", i32ToI32, asm.Code{}.LocalGet(0).I32Load(0))
	lib.Func("grow", i32ToI32, asm.Code{}.LocalGet(0).MemoryGrow())
	lender := instantiate(t, compile(t, e, lib, mapped), engines.Imports{})

	m := new(asm.Module)
	m.ImportTable("lib", "table", 1)
	m.Memory("memory", 1)
	m.Elem(0, m.Func("", toI32, asm.Code{}.I32Const(0).I32Load(0)))
	importer := instantiate(t, compile(t, e, m, mapped), lend(lender))
	file, image := fileOf(t, 1, 0x5a)
	mapMemory(t, importer, file, 1)
	want(t, lender, word(image), "call")
	closeAll(t, importer)
	want(t, lender, word(image), "call")

	// One that borrows the memory leaves it as it was.
	borrower := new(asm.Module)
	borrower.ImportMemory("lib", "memory", 1)
	borrower.Func("load", i32ToI32, asm.Code{}.LocalGet(0).I32Load(0))
	mapMemory(t, lender, file, 1)
	inst := instantiate(t, compile(t, e, borrower, mapped), lend(lender))
	want(t, inst, word(image[8:]), "load", 8)
	closeAll(t, inst)
	want(t, lender, word(image[8:]), "load", 8)
	want(t, lender, 1, "grow", 1)
	want(t, lender, word(image[8:]), "load", 8)
	want(t, lender, 0, "load", 2*page-4)
	closeAll(t, lender)
}

// A host function that a start function calls makes instances of its own, with
// the context that it was given.
func testMappedNested(t *testing.T, e engines.WasmEngine) {
	file, image := fileOf(t, 4, 0x5a)
	plain, other := compile(t, e, fourPages()), compile(t, e, fourPages(), mapped)
	var inner []engines.Instance
	imports := env(engines.HostFunction{Name: "make", Type: toNothing, Call: func(ctx context.Context, _ engines.Caller, _ []uint64) error {
		for _, mod := range []engines.Module{plain, other} {
			inst, err := mod.Instantiate(ctx, engines.Imports{})
			if err != nil {
				return err
			}
			inner = append(inner, inst)
		}
		return nil
	}})
	m := new(asm.Module)
	m.ImportFunc("env", "make", toNothing)
	m.Memory("memory", 4)
	m.Start(m.Func("", toNothing, asm.Code{}.I32Const(16).I32Const(1).I32Store(0).Call(0)))
	inst := instantiate(t, compile(t, e, m, mapped), imports)
	mapMemory(t, inst, file, 4)
	wantContents(t, inst, image)
	for _, i := range inner {
		want(t, i, 0, "load", 16)
		run(t, i, "fill", 0, 0, 4*page)
		closeAll(t, i)
	}
	wantContents(t, inst, image)
}

// Instances have their own bytes however many there are, and what each reserves
// is given back.
func testMappedMany(t *testing.T, e engines.WasmEngine) {
	const rounds, each = 25, 20
	file, image := fileOf(t, 4, 0x5a)
	mod := compile(t, e, fourPagesOf(), mapped) // reserves 4 GiB
	var most uint64
	round := func() {
		var insts []engines.Instance
		for n := range each {
			inst, err := mod.Instantiate(bg(), engines.Imports{})
			if err != nil {
				t.Fatal(err)
			}
			insts = append(insts, inst)
			mapMemory(t, inst, file, 4)
			run(t, inst, "store", 4, uint64(n))
		}
		resetMemory(t, insts[0])
		want(t, insts[0], word(image[4:]), "load", 4)
		for n := 1; n < each; n++ {
			want(t, insts[n], uint64(n), "load", 4)
		}
		size, _ := addressSpace()
		most = max(most, size)
		for _, inst := range insts {
			closeAll(t, inst)
		}
	}
	round()
	before, known := addressSpace()
	for range rounds {
		round()
	}
	after, _ := addressSpace()
	reserved := most - before // by the instances of one round
	if known && after > before && after-before > 2*reserved {
		t.Errorf("after %d rounds that take %d MiB, %d MiB are not given back", rounds, reserved>>20, (after-before)>>20)
	}
}
