package enginetest

import (
	"context"
	"reflect"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

var moduleCases = []testCase{
	{name: "module/imports and exports with types", run: testInterface},
	{name: "module/exports that are not there", run: testExportErrors},
	{name: "module/the empty module", run: testEmptyModule},
	{name: "module/the binary is not kept", run: testBinaryNotKept},
	{name: "start/runs once", run: testStart},
	{name: "start/traps", run: testStartTraps},
	{name: "start/host function fails", run: testStartHostError},
	{name: "start/data segment out of bounds", run: testDataBounds},
	{name: "start/element segment out of bounds", run: testElementBounds},
	{name: "start/_start is not special", run: testNoCommand},
}

func testInterface(t *testing.T, e engines.WasmEngine) {
	wide := asm.Func(asm.Types(i32, i64, f32, f64), asm.Types(f64, i32))
	constF32 := engines.GlobalType{Value: f32}
	m := new(asm.Module)
	f := m.ImportFunc("env", "f", wide)
	m.ImportMemory("lib", "memory", 1, 9)
	m.ImportGlobal("lib", "g", mutI32)
	m.ImportTable("lib", "table", 1)
	m.Func("run", toNothing, nil)
	m.Export("f2", engines.KindFunc, f)
	m.Export("memory2", engines.KindMemory, 0)
	m.Export("g2", engines.KindGlobal, 0)
	m.Export("table2", engines.KindTable, 0)
	m.Global("g", constF32, asm.Code{}.F32Const(1))

	mem := engines.ExternType{Kind: engines.KindMemory, Memory: engines.MemoryType{Min: 1, Max: 9, HasMax: true}}
	global := engines.ExternType{Kind: engines.KindGlobal, Global: mutI32}
	table := engines.ExternType{Kind: engines.KindTable}
	fun := engines.ExternType{Kind: engines.KindFunc, Func: wide}
	mod := compile(t, e, m)
	if got, want := mod.Imports(), []engines.ImportType{
		{Module: "env", Name: "f", Type: fun},
		{Module: "lib", Name: "memory", Type: mem},
		{Module: "lib", Name: "g", Type: global},
		{Module: "lib", Name: "table", Type: table},
	}; !reflect.DeepEqual(got, want) {
		t.Errorf("Imports() = %+v\nwant %+v", got, want)
	}
	exports := mod.Exports()
	if len(exports) == 0 || exports[0].Type.Kind != engines.KindFunc || !exports[0].Type.Func.Equal(toNothing) {
		t.Fatalf("Exports() = %+v, want run first", exports)
	}
	if got, want := exports[1:], []engines.ExportType{
		{Name: "f2", Type: fun},
		{Name: "memory2", Type: mem},
		{Name: "g2", Type: global},
		{Name: "table2", Type: table},
		{Name: "g", Type: engines.ExternType{Kind: engines.KindGlobal, Global: constF32}},
	}; !reflect.DeepEqual(got, want) {
		t.Errorf("Exports() = %+v\nwant %+v", got, want)
	}
}

func testExportErrors(t *testing.T, e engines.WasmEngine) {
	inst := load(t, e, onePage())
	for _, name := range []string{"absent", "memory", ""} {
		_, err := inst.Func(name)
		if got := wantAs[*engines.ExportError](t, err); got.Name != name {
			t.Errorf("the error names %q, want %q", got.Name, name)
		}
	}
}

func testEmptyModule(t *testing.T, e engines.WasmEngine) {
	mod := compile(t, e, new(asm.Module))
	if len(mod.Imports())+len(mod.Exports()) != 0 {
		t.Errorf("the empty module imports %v and exports %v", mod.Imports(), mod.Exports())
	}
	instantiate(t, mod, engines.Imports{})
}

func testBinaryNotKept(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	m.Memory("memory", 1)
	m.Data(0, "kept?")
	m.Func("answer", toI32, asm.Code{}.I32Const(42))
	wasm := m.Bytes()
	mod, err := e.Compile(bg(), wasm, engines.CompileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(t, mod) })
	clear(wasm)
	inst := instantiate(t, mod, engines.Imports{})
	want(t, inst, 42, "answer")
	got := make([]byte, 5)
	if !inst.Memory("memory").Read(0, got) || string(got) != "kept?" {
		t.Errorf("the data segment reads %q", got)
	}
}

func testStart(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	m.Global("runs", mutI32, asm.Code{}.I32Const(0))
	m.Start(m.Func("", toNothing, asm.Code{}.GlobalGet(0).I32Const(1).Op(asm.I32Add).GlobalSet(0)))
	mod := compile(t, e, m)
	for range 2 { // each instance has its own globals
		if n := instantiate(t, mod, engines.Imports{}).Global("runs").Get(); n != 1 {
			t.Errorf("the start function ran %d times", n)
		}
	}
}

func testStartTraps(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	m.Start(m.Func("", toNothing, asm.Code{}.Op(asm.Unreachable)))
	mod := compile(t, e, m)
	for range 3 {
		_, err := mod.Instantiate(bg(), engines.Imports{})
		wantTrap(t, err, engines.TrapUnreachable)
	}
}

func testStartHostError(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	host := m.ImportFunc("env", "fail", toNothing)
	m.Start(m.Func("", toNothing, asm.Code{}.Call(host)))
	_, err := compile(t, e, m).Instantiate(bg(), env(engines.HostFunction{
		Name: "fail", Type: toNothing,
		Call: func(context.Context, engines.Caller, []uint64) error { return errOfHost },
	}))
	wantAs[*engines.HostError](t, err)
	wantIs(t, err, errOfHost)
}

func testDataBounds(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	m.Memory("", 1)
	m.Data(engines.PageSize-1, "xy")
	_, err := compile(t, e, m).Instantiate(bg(), engines.Imports{})
	wantTrap(t, err, engines.TrapMemoryBounds)
}

func testElementBounds(t *testing.T, e engines.WasmEngine) {
	for name, c := range map[string]struct {
		size   uint32
		offset int32
		trap   bool
	}{
		"fits":                   {2, 1, false},
		"one too far":            {2, 2, true},
		"a negative offset":      {2, -1, true},
		"an offset of two bytes": {200, 64, false},
	} {
		m := new(asm.Module)
		m.Table("", c.size)
		m.Elem(c.offset, m.Func("", toNothing, nil))
		inst, err := compile(t, e, m).Instantiate(bg(), engines.Imports{})
		if c.trap {
			wantTrap(t, err, engines.TrapTableBounds)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		closeAll(t, inst)
	}
}

// Whether an export of this name runs is for the ABI above to say.
func testNoCommand(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	m.Func("_start", toNothing, asm.Code{}.Op(asm.Unreachable))
	m.Func("_initialize", toNothing, asm.Code{}.Op(asm.Unreachable))
	load(t, e, m)
}
