package enginetest

import (
	"context"
	"errors"
	"strconv"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

var linkCases = []testCase{
	{name: "link/function of an instance", run: testLinkFunc},
	{name: "link/memory of an instance", run: testLinkMemory},
	{name: "link/global of an instance", run: testLinkGlobal},
	{name: "link/table of an instance", run: testLinkTable},
	{name: "link/tables beside a lent one", run: testLinkTables},
	{name: "link/trap and host error in a lent function", run: testLinkErrors},
	{name: "link/the call's context reaches the lender's host functions", run: testLinkContext},
	{name: "link/host functions beside an instance", run: testLinkBoth},
	{name: "link/what does not fit", run: testLinkMismatch},
	{name: "link/one host module under two names", run: testHostTwice},
}

// lib exports a function, a memory, a global and a table of that function.
func lib() *asm.Module {
	m := new(asm.Module)
	m.Memory("memory", 1, 2)
	m.Table("table", 1)
	m.Global("counter", mutI32, asm.Code{}.I32Const(10))
	add := m.Func("add", binaryI32, asm.Code{}.LocalGet(0).LocalGet(1).Op(asm.I32Add))
	m.Func("load", i32ToI32, asm.Code{}.LocalGet(0).I32Load(0))
	m.Func("counter_get", toI32, asm.Code{}.GlobalGet(0))
	m.Elem(0, add)
	return m
}

func testLinkFunc(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	add := m.ImportFunc("lib", "add", binaryI32)
	m.Func("twice", i32ToI32, asm.Code{}.LocalGet(0).LocalGet(0).Call(add))
	m.Export("add", engines.KindFunc, add)
	inst := load(t, e, m, lend(load(t, e, lib())))
	want(t, inst, 42, "twice", 21)
	want(t, inst, 7, "add", 3, 4)
}

func testLinkMemory(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	m.ImportMemory("lib", "memory", 1)
	m.Func("store", asm.Func(asm.Types(i32, i32), nil), asm.Code{}.LocalGet(0).LocalGet(1).I32Store(0))
	m.Func("grow", i32ToI32, asm.Code{}.LocalGet(0).MemoryGrow())
	m.Export("again", engines.KindMemory, 0)
	lender := load(t, e, lib())
	inst := load(t, e, m, lend(lender))
	if _, err := invoke(inst, "store", 64, 1234); err != nil {
		t.Fatal(err)
	}
	want(t, lender, 1234, "load", 64)
	want(t, inst, 1, "grow", 1)
	for _, mem := range []engines.Memory{lender.Memory("memory"), inst.Memory("again")} {
		if mem.Size() != 2*engines.PageSize {
			t.Errorf("the shared memory has %d bytes, want %d", mem.Size(), 2*engines.PageSize)
		}
	}
}

func testLinkGlobal(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	m.ImportGlobal("lib", "counter", mutI32)
	m.Func("bump", toNothing, asm.Code{}.GlobalGet(0).I32Const(1).Op(asm.I32Add).GlobalSet(0))
	lender := load(t, e, lib())
	inst := load(t, e, m, lend(lender))
	if _, err := invoke(inst, "bump"); err != nil {
		t.Fatal(err)
	}
	want(t, lender, 11, "counter_get")
	if got := lender.Global("counter").Get(); got != 11 {
		t.Errorf("the shared global is %d, want 11", got)
	}
}

func testLinkTable(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	m.ImportTable("lib", "table", 1)
	m.Func("call", binaryI32, asm.Code{}.LocalGet(0).LocalGet(1).I32Const(0).CallIndirect(m.Type(binaryI32)))
	want(t, load(t, e, m, lend(load(t, e, lib()))), 9, "call", 4, 5)
}

// Each instruction on a table finds the one it names, lent or own. An engine for
// which that does not hold refuses the module.
func testLinkTables(t *testing.T, e engines.WasmEngine) {
	lib := new(asm.Module)
	lib.Table("table", 6)
	lender := load(t, e, lib)

	m := new(asm.Module)
	m.ImportTable("lib", "table", 1)
	m.Table("", 7)
	m.Table("", 8)
	for table := range byte(3) {
		name := strconv.Itoa(int(table))
		m.Func("set"+name, i32ToI32, asm.Code{}.LocalGet(0).RefFunc(0).Op(0x26, table).LocalGet(0))                    // table.set
		m.Func("call"+name, i32ToI32, append(asm.Code{}.LocalGet(0).LocalGet(0), 0x11, byte(m.Type(i32ToI32)), table)) // call_indirect
		m.Func("isNull"+name, i32ToI32, asm.Code{}.LocalGet(0).Op(0x25, table).Op(0xd1))                               // table.get, ref.is_null
		m.Func("size"+name, toI32, asm.Code{}.Op(0xfc, 16, table))                                                     // table.size
	}
	m.Export("declares", engines.KindFunc, 0)
	mod, err := e.Compile(bg(), m.Bytes(), engines.CompileOptions{})
	if refused, ok := errors.AsType[*engines.UnsupportedError](err); ok {
		t.Logf("refused: %v", refused)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(t, mod) })
	inst := instantiate(t, mod, lend(lender))
	for table, size := range []uint64{6, 7, 8} {
		name := strconv.Itoa(table)
		want(t, inst, size, "size"+name)
		want(t, inst, 1, "isNull"+name, 3)
		_, err := invoke(inst, "call"+name, 3)
		wantTrap(t, err, engines.TrapTableBounds)
		want(t, inst, 3, "set"+name, 3)
		want(t, inst, 3, "call"+name, 3)
		for other := range 3 {
			null := uint64(1)
			if other <= table {
				null = 0
			}
			want(t, inst, null, "isNull"+strconv.Itoa(other), 3)
		}
		want(t, inst, size-1, "set"+name, size-1)
		_, err = invoke(inst, "set"+name, size)
		wantTrap(t, err, engines.TrapTableBounds)
	}
}

func testLinkErrors(t *testing.T, e engines.WasmEngine) {
	inner := new(asm.Module)
	host := inner.ImportFunc("env", "fail", toNothing)
	inner.Func("fail", toNothing, asm.Code{}.Call(host))
	inner.Func("trap", toNothing, asm.Code{}.Op(asm.Unreachable))
	lender := load(t, e, inner, env(engines.HostFunction{
		Name: "fail", Type: toNothing,
		Call: func(context.Context, engines.Caller, []uint64) error { return errOfHost },
	}))
	outer := new(asm.Module)
	fail, trap := outer.ImportFunc("lib", "fail", toNothing), outer.ImportFunc("lib", "trap", toNothing)
	outer.Func("fail", toNothing, asm.Code{}.Call(fail))
	outer.Func("trap", toNothing, asm.Code{}.Call(trap))
	inst := load(t, e, outer, lend(lender))
	_, err := invoke(inst, "fail")
	wantAs[*engines.HostError](t, err)
	wantIs(t, err, errOfHost)
	_, err = invoke(inst, "trap")
	wantTrap(t, err, engines.TrapUnreachable)
}

func testLinkContext(t *testing.T, e engines.WasmEngine) {
	type key struct{}
	inner := new(asm.Module)
	host := inner.ImportFunc("env", "f", toNothing)
	inner.Func("f", toNothing, asm.Code{}.Call(host))
	var got any
	lender := load(t, e, inner, env(engines.HostFunction{
		Name: "f", Type: toNothing,
		Call: func(ctx context.Context, _ engines.Caller, _ []uint64) error {
			got = ctx.Value(key{})
			return nil
		},
	}))
	outer := new(asm.Module)
	lent := outer.ImportFunc("lib", "f", toNothing)
	outer.Func("f", toNothing, asm.Code{}.Call(lent))
	f := fn(t, load(t, e, outer, lend(lender)), "f")
	for _, v := range []string{"first", "second"} {
		if err := f.Call(context.WithValue(bg(), key{}, v), nil); err != nil || got != v {
			t.Errorf("the context holds %v (%v), want %q", got, err, v)
		}
	}
}

// A host function sees the memory of the instance that called it, not of the
// one that the embedder called.
func testLinkBoth(t *testing.T, e engines.WasmEngine) {
	mark := engines.HostFunction{
		Name: "mark", Type: toNothing,
		Call: func(_ context.Context, c engines.Caller, _ []uint64) error {
			c.Memory().Write(0, []byte{1})
			return nil
		},
	}
	inner := new(asm.Module)
	host := inner.ImportFunc("env", "mark", toNothing)
	inner.Memory("memory", 1)
	inner.Func("mark", toNothing, asm.Code{}.Call(host))
	imports := env(mark)
	lender := load(t, e, inner, imports)

	outer := new(asm.Module)
	own, lent := outer.ImportFunc("env", "mark", toNothing), outer.ImportFunc("lib", "mark", toNothing)
	outer.Memory("memory", 1)
	outer.Func("own", toNothing, asm.Code{}.Call(own))
	outer.Func("lent", toNothing, asm.Code{}.Call(lent))
	imports.Instances = lend(lender).Instances
	inst := load(t, e, outer, imports)

	marks := func() (inner, outer byte) {
		var a, b [1]byte
		lender.Memory("memory").Read(0, a[:])
		inst.Memory("memory").Read(0, b[:])
		return a[0], b[0]
	}
	if _, err := invoke(inst, "lent"); err != nil {
		t.Fatal(err)
	}
	if a, b := marks(); a != 1 || b != 0 {
		t.Errorf("after a call by way of the lender, marks are %d and %d, want 1 and 0", a, b)
	}
	if _, err := invoke(inst, "own"); err != nil {
		t.Fatal(err)
	}
	if _, b := marks(); b != 1 {
		t.Error("a direct call did not see the caller's own memory")
	}
}

// stranger is an instance of no engine.
type stranger struct{ engines.Instance }

func testLinkMismatch(t *testing.T, e engines.WasmEngine) {
	lender := load(t, e, lib())
	closed := load(t, e, lib())
	closeAll(t, closed)
	noop := func(context.Context, engines.Caller, []uint64) error { return nil }
	both := lend(lender)
	both.Host = map[string]*engines.HostModule{"lib": {Functions: []engines.HostFunction{{Name: "add", Type: binaryI32, Call: noop}}}}
	asHost := func(f engines.HostFunction) engines.Imports {
		return engines.Imports{Host: map[string]*engines.HostModule{"lib": {Functions: []engines.HostFunction{f}}}}
	}
	addOf := func(typ engines.FuncType) func(*asm.Module) {
		return func(m *asm.Module) { m.ImportFunc("lib", "add", typ) }
	}
	add := addOf(binaryI32)
	for name, c := range map[string]struct {
		imports engines.Imports
		build   func(*asm.Module)
		want    string
	}{
		"nothing given":            {engines.Imports{}, add, "add"},
		"nil host module":          {engines.Imports{Host: map[string]*engines.HostModule{"lib": nil}}, add, "add"},
		"nil instance":             {lend(nil), add, "add"},
		"given twice":              {both, add, "add"},
		"foreign instance":         {lend(stranger{lender}), add, "add"},
		"closed instance":          {lend(closed), add, "add"},
		"host lacks the name":      {asHost(engines.HostFunction{Name: "sub", Type: binaryI32, Call: noop}), add, "add"},
		"host type differs":        {asHost(engines.HostFunction{Name: "add", Type: i32ToI32, Call: noop}), add, "add"},
		"host function as memory":  {asHost(engines.HostFunction{Name: "add", Type: i32ToI32, Call: noop}), func(m *asm.Module) { m.ImportMemory("lib", "add", 1) }, "add"},
		"instance lacks the name":  {lend(lender), func(m *asm.Module) { m.ImportFunc("lib", "sub", binaryI32) }, "sub"},
		"instance type differs":    {lend(lender), addOf(i32ToI32), "add"},
		"function as memory":       {lend(lender), func(m *asm.Module) { m.ImportMemory("lib", "add", 1) }, "add"},
		"global mutability":        {lend(lender), func(m *asm.Module) { m.ImportGlobal("lib", "counter", engines.GlobalType{Value: i32}) }, "counter"},
		"global type":              {lend(lender), func(m *asm.Module) { m.ImportGlobal("lib", "counter", engines.GlobalType{Value: i64, Mutable: true}) }, "counter"},
		"memory too small":         {lend(lender), func(m *asm.Module) { m.ImportMemory("lib", "memory", 2) }, "memory"},
		"memory maximum too large": {lend(lender), func(m *asm.Module) { m.ImportMemory("lib", "memory", 1, 1) }, "memory"},
		"table too small":          {lend(lender), func(m *asm.Module) { m.ImportTable("lib", "table", 2) }, "table"},
	} {
		t.Run(name, func(t *testing.T) {
			m := new(asm.Module)
			c.build(m)
			_, err := compile(t, e, m).Instantiate(bg(), c.imports)
			link := wantAs[*engines.LinkError](t, err)
			if link.Module != "lib" || link.Name != c.want || link.Reason == "" {
				t.Errorf("LinkError %+v, want it to name lib.%s and a reason", *link, c.want)
			}
		})
	}
}

func testHostTwice(t *testing.T, e engines.WasmEngine) {
	host := &engines.HostModule{Functions: []engines.HostFunction{{
		Name: "fail", Type: toNothing,
		Call: func(context.Context, engines.Caller, []uint64) error { return errOfHost },
	}}}
	m := new(asm.Module)
	a, b := m.ImportFunc("a", "fail", toNothing), m.ImportFunc("b", "fail", toNothing)
	m.Func("a", toNothing, asm.Code{}.Call(a))
	m.Func("b", toNothing, asm.Code{}.Call(b))
	inst := load(t, e, m, engines.Imports{Host: map[string]*engines.HostModule{"a": host, "b": host}})
	for _, name := range []string{"a", "b"} {
		_, err := invoke(inst, name)
		if got := wantAs[*engines.HostError](t, err); got.Module != name {
			t.Errorf("the error names the import module %q, want %q", got.Module, name)
		}
	}
}
