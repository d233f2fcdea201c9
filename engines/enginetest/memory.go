package enginetest

import (
	"bytes"
	"math"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

var memoryCases = []testCase{
	{name: "memory/bounds", run: testMemoryBounds},
	{name: "memory/copies to and from a part of something", run: testMemoryParts},
	{name: "memory/shared with the guest", run: testMemoryShared},
	{name: "memory/grow", run: testMemoryGrow},
	{name: "memory/absent", run: testMemoryAbsent},
	{name: "globals/get and set", run: testGlobals},
}

// onePage has a memory of one page that may grow to three, and functions that
// load and store an i32, and grow.
func onePage() *asm.Module {
	m := new(asm.Module)
	m.Memory("memory", 1, 3)
	m.Func("load", i32ToI32, asm.Code{}.LocalGet(0).I32Load(0))
	m.Func("store", asm.Func(asm.Types(i32, i32), nil), asm.Code{}.LocalGet(0).LocalGet(1).I32Store(0))
	m.Func("grow", i32ToI32, asm.Code{}.LocalGet(0).MemoryGrow())
	m.Func("size", toI32, asm.Code{}.MemorySize())
	return m
}

func testMemoryBounds(t *testing.T, e engines.WasmEngine) {
	mem := load(t, e, onePage()).Memory("memory")
	if mem.Size() != engines.PageSize {
		t.Fatalf("Size() = %d, want %d", mem.Size(), engines.PageSize)
	}
	for _, c := range []struct {
		offset uint64
		n      int
		ok     bool
	}{
		{0, 0, true}, {0, engines.PageSize, true}, {engines.PageSize, 0, true}, {engines.PageSize - 1, 1, true},
		{0, engines.PageSize + 1, false}, {engines.PageSize, 1, false}, {engines.PageSize + 1, 0, false},
		{math.MaxUint32, 1, false}, {1 << 32, 0, false}, {1 << 32, 4, false}, {math.MaxUint64, 0, false}, {math.MaxUint64, 2, false},
		{math.MaxUint64 - 3, 8, false},
	} {
		data := bytes.Repeat([]byte{0xa5}, c.n)
		if ok := mem.Write(c.offset, data); ok != c.ok {
			t.Errorf("Write(%#x, %d bytes) = %v, want %v", c.offset, c.n, ok, c.ok)
		}
		got := make([]byte, c.n)
		if ok := mem.Read(c.offset, got); ok != c.ok {
			t.Errorf("Read(%#x, %d bytes) = %v, want %v", c.offset, c.n, ok, c.ok)
		}
		if c.ok != bytes.Equal(got, data) && c.n > 0 {
			t.Errorf("Read(%#x, %d bytes) after Write: copied must be all if ok and nothing if not", c.offset, c.n)
		}
		clear(data)
		mem.Write(c.offset, data)
	}
	// What was refused was not written in part.
	all := make([]byte, engines.PageSize)
	if !mem.Read(0, all) || len(bytes.TrimLeft(all, "\x00")) != 0 {
		t.Error("a refused Write changed memory")
	}
}

// What is copied may lie in an object that holds pointers: cgo must not mind.
func testMemoryParts(t *testing.T, e engines.WasmEngine) {
	mem := load(t, e, onePage()).Memory("memory")
	whole := struct {
		pointer *int
		data    [16]byte
	}{pointer: new(int), data: [16]byte{1, 2, 3}}
	got := whole
	got.data = [16]byte{}
	if !mem.Write(7, whole.data[:]) || !mem.Read(7, got.data[:]) || got.data != whole.data {
		t.Errorf("%v, want %v", got.data, whole.data)
	}
	if !mem.Write(7, whole.data[:0]) || !mem.Read(7, got.data[:0]) {
		t.Error("nothing cannot be copied")
	}
}

func testMemoryShared(t *testing.T, e engines.WasmEngine) {
	inst := load(t, e, onePage())
	mem := inst.Memory("memory")
	if !mem.Write(100, []byte{1, 2, 3, 4}) {
		t.Fatal("Write failed")
	}
	want(t, inst, 0x04030201, "load", 100)
	if _, err := invoke(inst, "store", 200, 0xcafebabe); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if !mem.Read(200, got) || !bytes.Equal(got, []byte{0xbe, 0xba, 0xfe, 0xca}) {
		t.Errorf("Read = %x, want bebafeca", got)
	}
	got[0] = 0 // a copy, not a view
	want(t, inst, 0xcafebabe, "load", 200)
}

func testMemoryGrow(t *testing.T, e engines.WasmEngine) {
	inst := load(t, e, onePage())
	mem := inst.Memory("memory")
	mem.Write(0, []byte{7})
	want(t, inst, 1, "grow", 1) // by the guest
	if mem.Size() != 2*engines.PageSize {
		t.Errorf("Size() after the guest grew = %d", mem.Size())
	}
	if prev, ok := mem.Grow(1); !ok || prev != 2 { // by the host
		t.Errorf("Grow(1) = %d, %v, want 2, true", prev, ok)
	}
	want(t, inst, 3, "size")
	if _, ok := mem.Grow(1); ok {
		t.Error("Grow beyond the declared maximum succeeded")
	}
	want(t, inst, math.MaxUint32, "grow", 1)
	want(t, inst, 7, "load", 0)
	if !mem.Write(3*engines.PageSize-1, []byte{1}) {
		t.Error("the grown part cannot be written")
	}
}

func testMemoryAbsent(t *testing.T, e engines.WasmEngine) {
	inst := load(t, e, onePage())
	if mem := inst.Memory("absent"); mem != nil {
		t.Errorf("Memory of no export = %v, want nil", mem)
	}
	if mem := inst.Memory("load"); mem != nil {
		t.Errorf("Memory of a function = %v, want nil", mem)
	}
	if g := inst.Global("memory"); g != nil {
		t.Errorf("Global of a memory = %v, want nil", g)
	}
}

func testGlobals(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	constI64 := engines.GlobalType{Value: i64}
	for _, g := range []struct {
		name string
		typ  engines.ValueType
		init asm.Code
	}{
		{"i32", i32, asm.Code{}.I32Const(-1)}, {"i64", i64, asm.Code{}.I64Const(math.MinInt64)},
		{"f32", f32, asm.Code{}.F32Const(1.5)}, {"f64", f64, asm.Code{}.F64Const(-2.5)},
	} {
		m.Global(g.name, engines.GlobalType{Value: g.typ, Mutable: true}, g.init)
	}
	m.Global("const", constI64, asm.Code{}.I64Const(9))
	m.Func("get", toI32, asm.Code{}.GlobalGet(0))
	m.Func("set", asm.Func(asm.Types(i32), nil), asm.Code{}.LocalGet(0).GlobalSet(0))
	inst := load(t, e, m)
	for name, w := range map[string][2]uint64{
		"i32": {math.MaxUint32, 5}, "i64": {1 << 63, 6},
		"f32": {uint64(math.Float32bits(1.5)), uint64(math.Float32bits(-0.5))},
		"f64": {math.Float64bits(-2.5), math.Float64bits(math.Inf(1))},
	} {
		g := inst.Global(name)
		if g.Get() != w[0] {
			t.Errorf("%s begins as %#x, want %#x", name, g.Get(), w[0])
		}
		if err := g.Set(w[1]); err != nil || g.Get() != w[1] {
			t.Errorf("%s is %#x after Set (%v), want %#x", name, g.Get(), err, w[1])
		}
	}
	want(t, inst, 5, "get")
	if _, err := invoke(inst, "set", 77); err != nil || inst.Global("i32").Get() != 77 {
		t.Errorf("i32 is %d after the guest set 77 (%v)", inst.Global("i32").Get(), err)
	}
	g := inst.Global("const")
	if g.Type() != constI64 || g.Get() != 9 {
		t.Errorf("const is %+v, %d", g.Type(), g.Get())
	}
	if err := g.Set(1); err == nil || g.Get() != 9 {
		t.Errorf("setting an immutable global: %v, and it is %d", err, g.Get())
	}
	if inst.Global("absent") != nil {
		t.Error("Global of no export is not nil")
	}
}
