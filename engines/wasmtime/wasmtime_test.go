//go:build wasmtime

package wasmtime_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	upstream "github.com/bytecodealliance/wasmtime-go/v44"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/engines/wasmtime"
)

func newEngine(t testing.TB) engines.WasmEngine {
	t.Helper()
	e, err := wasmtime.New()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestConformance(t *testing.T) { enginetest.Test(t, newEngine) }

// Info's version is written by hand; go.mod says which it must be.
func TestVersion(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	want := regexp.MustCompile(`github.com/bytecodealliance/wasmtime-go/v\d+ v(\S+)`).FindSubmatch(mod)
	e := newEngine(t)
	defer e.Close()
	if got := e.Info().Version; want == nil || got != string(want[1]) {
		t.Errorf("Info().Version = %q, go.mod requires %q", got, want)
	}
}

// What capi.h declares is what Wasmtime's own headers do: a C compiler that
// sees both refuses a difference.
func TestDeclarations(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/bytecodealliance/wasmtime-go/v44").Output()
	if err != nil {
		t.Fatal(err)
	}
	include := filepath.Join(strings.TrimSpace(string(dir)), "build", "include")
	check := func(header string) (string, error) {
		cmd := exec.Command("cc", "-std=gnu11", "-fsyntax-only", "-I", include, "-include", "wasmtime.h", "-x", "c", "-")
		cmd.Stdin = strings.NewReader(header)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	header, err := os.ReadFile("capi.h")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := check(string(header)); err != nil {
		t.Errorf("capi.h differs from wasmtime.h: %v\n%s", err, out)
	}
	// And it would be seen.
	wrong := strings.Replace(string(header), "void wasm_engine_delete(wasm_engine_t *)", "void wasm_engine_delete(int)", 1)
	if out, err := check(wrong); err == nil || !strings.Contains(out, "wasm_engine_delete") {
		t.Errorf("a wrong declaration is not found: %v\n%s", err, out)
	}
}

var (
	i32       = engines.I32
	toI32     = asm.Func(nil, asm.Types(i32))
	toNothing = asm.Func(nil, nil)
	binaryI32 = asm.Func(asm.Types(i32, i32), asm.Types(i32))
	mutable   = engines.GlobalType{Value: i32, Mutable: true}
)

func compile(t testing.TB, e engines.WasmEngine, m *asm.Module, opts engines.CompileOptions) engines.Module {
	t.Helper()
	mod, err := e.Compile(t.Context(), m.Bytes(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return mod
}

func load(t testing.TB, e engines.WasmEngine, m *asm.Module, imports engines.Imports) engines.Instance {
	t.Helper()
	inst, err := compile(t, e, m, engines.CompileOptions{}).Instantiate(t.Context(), imports)
	if err != nil {
		t.Fatal(err)
	}
	return inst
}

func function(t testing.TB, inst engines.Instance, name string) engines.Func {
	t.Helper()
	f, err := inst.Func(name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func lend(lenders map[string]engines.Instance) engines.Imports {
	return engines.Imports{Instances: lenders}
}

func host(fn engines.HostFunction) engines.Imports {
	return engines.Imports{Host: map[string]*engines.HostModule{"env": {Functions: []engines.HostFunction{fn}}}}
}

// What goes beyond WebAssembly 2.0 is refused, as the other engines do.
func TestProposalsAreOff(t *testing.T) {
	e := newEngine(t)
	defer e.Close()
	const oneFunc = "\x01\x04\x01\x60\x00\x00" + "\x03\x02\x01\x00" // of type () -> ()
	for name, sections := range map[string]string{
		"two memories":    "\x05\x05\x02\x00\x01\x00\x01",
		"64-bit memory":   "\x05\x03\x01\x04\x01",
		"shared memory":   "\x05\x04\x01\x03\x01\x01",
		"tail call":       oneFunc + "\x0a\x06\x01\x04\x00\x12\x00\x0b",
		"atomic fence":    oneFunc + "\x0a\x07\x01\x05\x00\xfe\x03\x00\x0b",
		"exception tag":   oneFunc[:6] + "\x0d\x03\x01\x00\x00",
		"struct type":     "\x01\x03\x01\x5f\x00",
		"typed reference": "\x01\x06\x01\x60\x01\x64\x70\x00",
		"relaxed SIMD": oneFunc + "\x0a\x2c\x01\x2a\x00" + "\xfd\x0c" + strings.Repeat("\x00", 16) +
			"\xfd\x0c" + strings.Repeat("\x00", 16) + "\xfd\x80\x02\x1a\x0b",
		"wide arithmetic": oneFunc + "\x0a\x10\x01\x0e\x00\x42\x00\x42\x00\x42\x00\x42\x00\xfc\x13\x1a\x1a\x0b",
	} {
		mod, err := e.Compile(t.Context(), []byte("\x00asm\x01\x00\x00\x00"+sections), engines.CompileOptions{})
		if _, ok := errors.AsType[*engines.CompileError](err); !ok {
			t.Errorf("%s: %v, want a CompileError", name, err)
		}
		if err == nil {
			_ = mod.Close()
		}
	}
}

// What the adapter does not hold itself is refused by name, with a remedy.
func TestRefusals(t *testing.T) {
	e := newEngine(t)
	defer e.Close()
	for _, opts := range []engines.CompileOptions{{Fuel: 1}, {CallDepth: 1}} {
		_, err := e.Compile(t.Context(), adder().Bytes(), opts)
		if _, ok := errors.AsType[*engines.UnsupportedError](err); !ok || !strings.Contains(err.Error(), "engines/meter") {
			t.Errorf("%+v: %v, want an UnsupportedError that says what to use", opts, err)
		}
	}
}

// The start function is exported by the adapter, which must not make a module
// valid: an export declares a function, so that ref.func may name it.
func TestExportDeclaresNothing(t *testing.T) {
	e := newEngine(t)
	defer e.Close()
	const refFunc = 0xd2
	m := new(asm.Module)
	m.Start(m.Func("", toNothing, asm.Code{}.Op(refFunc, 0, asm.Drop)))
	_, err := e.Compile(t.Context(), m.Bytes(), engines.CompileOptions{})
	if _, ok := errors.AsType[*engines.CompileError](err); !ok || !strings.Contains(err.Error(), "undeclared") {
		t.Errorf("Compile = %v, want a CompileError for an undeclared reference", err)
	}
}

// The functions that an importer put into its lender's table can be called
// there after the importer is closed.
func TestTableOutlivesImporter(t *testing.T) {
	e := newEngine(t)
	defer e.Close()
	lib := new(asm.Module)
	lib.Table("table", 1)
	lib.Func("call", toI32, asm.Code{}.I32Const(0).CallIndirect(lib.Type(toI32)))
	lender := load(t, e, lib, engines.Imports{})

	m := new(asm.Module)
	m.ImportTable("lib", "table", 1)
	m.Memory("", 1)
	m.Data(0, "\x2a\x00\x00\x00")
	m.Elem(0, m.Func("", toI32, asm.Code{}.I32Const(0).I32Load(0)))
	importer := load(t, e, m, lend(map[string]engines.Instance{"lib": lender}))
	if err := importer.Close(); err != nil {
		t.Fatal(err)
	}
	stack := []uint64{0}
	if err := function(t, lender, "call").Call(t.Context(), stack); err != nil || stack[0] != 42 {
		t.Fatalf("call = %d, %v, want 42", stack[0], err)
	}
	if err := lender.Close(); err != nil {
		t.Fatal(err)
	}
}

// An instance can import from two others if these were made together, and is
// told what to do if they were not.
func TestTwoLenders(t *testing.T) {
	e := newEngine(t)
	defer e.Close()
	lender := func(value int32, imports engines.Imports) engines.Instance {
		m := new(asm.Module)
		m.Func("f", toI32, asm.Code{}.I32Const(value))
		return load(t, e, m, imports)
	}
	m := new(asm.Module)
	a, b := m.ImportFunc("a", "f", toI32), m.ImportFunc("b", "f", toI32)
	m.Func("sum", toI32, asm.Code{}.Call(a).Call(b).Op(asm.I32Add))
	mod := compile(t, e, m, engines.CompileOptions{})

	first := lender(40, engines.Imports{})
	lenders := map[string]engines.Instance{"a": first, "b": lender(2, engines.Imports{})}
	_, err := mod.Instantiate(t.Context(), lend(lenders))
	if link, ok := errors.AsType[*engines.LinkError](err); !ok || link.Module != "b" || !strings.Contains(link.Reason, "give one of them") {
		t.Errorf("Instantiate = %v, want a LinkError for b.f that says what to do", err)
	}

	lenders["b"] = lender(2, lend(map[string]engines.Instance{"a": first})) // it imports nothing of a
	inst, err := mod.Instantiate(t.Context(), lend(lenders))
	if err != nil {
		t.Fatal(err)
	}
	stack := []uint64{0}
	if err := function(t, inst, "sum").Call(t.Context(), stack); err != nil || stack[0] != 42 {
		t.Errorf("sum = %d, %v, want 42", stack[0], err)
	}
}

// Interruptible code does not link with code that is not; the error says what
// to do.
func TestLinkAcrossOptions(t *testing.T) {
	e := newEngine(t)
	defer e.Close()
	lib := new(asm.Module)
	lib.Func("f", toNothing, nil)
	lender, err := compile(t, e, lib, engines.CompileOptions{Interruptible: true}).Instantiate(t.Context(), engines.Imports{})
	if err != nil {
		t.Fatal(err)
	}
	m := new(asm.Module)
	m.ImportFunc("lib", "f", toNothing)
	_, err = compile(t, e, m, engines.CompileOptions{}).Instantiate(t.Context(), lend(map[string]engines.Instance{"lib": lender}))
	if link, ok := errors.AsType[*engines.LinkError](err); !ok || link.Name != "f" || !strings.Contains(link.Reason, "compile both with the same") {
		t.Errorf("Instantiate = %v, want a LinkError that names f and says what to do", err)
	}
}

// A host function that an instance passes on sees the memory of who calls it,
// not of who imported it.
func TestCallerOfLentHostFunction(t *testing.T) {
	e := newEngine(t)
	defer e.Close()
	mark := engines.HostFunction{
		Name: "mark", Type: toNothing,
		Call: func(_ context.Context, c engines.Caller, _ []uint64) error {
			if c.Memory() == nil || !c.Memory().Write(0, []byte{1}) {
				return errors.New("no memory")
			}
			return nil
		},
	}
	inner := new(asm.Module)
	inner.Export("mark", engines.KindFunc, inner.ImportFunc("env", "mark", toNothing))
	inner.Memory("memory", 1)
	lender := load(t, e, inner, host(mark))
	outer := new(asm.Module)
	lent := outer.ImportFunc("lib", "mark", toNothing)
	outer.Memory("memory", 1)
	outer.Func("run", toNothing, asm.Code{}.Call(lent))
	inst := load(t, e, outer, lend(map[string]engines.Instance{"lib": lender}))
	if err := function(t, inst, "run").Call(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	var a, b [1]byte
	lender.Memory("memory").Read(0, a[:])
	inst.Memory("memory").Read(0, b[:])
	if a[0] != 0 || b[0] != 1 {
		t.Errorf("marks are %d in the importer of the host function and %d in its caller, want 0 and 1", a[0], b[0])
	}
}

// Exports that the adapter adds are not seen, and do not take a guest's names.
func TestAddedExportsAreHidden(t *testing.T) {
	e := newEngine(t)
	defer e.Close()
	m := new(asm.Module)
	m.Memory("", 1)
	start := m.Func("forgeone:memory", toI32, asm.Code{}.I32Const(1)) // what the adapter would like to use
	m.Func("forgeone:start", toI32, asm.Code{}.Call(start))
	m.Global("ran", mutable, asm.Code{}.I32Const(0))
	m.Start(m.Func("", toNothing, asm.Code{}.I32Const(1).GlobalSet(0)))
	mod := compile(t, e, m, engines.CompileOptions{})
	if n := len(mod.Exports()); n != 3 {
		t.Errorf("%d exports are listed, want 3: %v", n, mod.Exports())
	}
	inst, err := mod.Instantiate(t.Context(), engines.Imports{})
	if err != nil {
		t.Fatal(err)
	}
	if inst.Global("ran").Get() != 1 {
		t.Error("the start function did not run")
	}
	if _, err := inst.Func("forgeone:start'"); err == nil {
		t.Error("the start function that the adapter exports can be called")
	}
	other := load(t, e, adder(), host(hostAdd))
	if other.Memory("forgeone:memory") != nil {
		t.Error("the memory that the adapter exports can be used by its name")
	}
}

// References of all kinds keep their words through globals, and many of them
// alive at once through a collection.
func TestReferences(t *testing.T) {
	e := newEngine(t)
	defer e.Close()
	const n = 20
	refs := make([]engines.ValueType, n)
	for i := range refs {
		refs[i] = engines.ExternRef
	}
	typ := asm.Func(refs, refs)
	m := new(asm.Module)
	code := asm.Code{}
	for i := range uint32(n) {
		code = code.LocalGet(i)
	}
	pass := m.ImportFunc("env", "pass", typ)
	m.Func("pass", typ, code.Call(pass))
	m.Global("extern", engines.GlobalType{Value: engines.ExternRef, Mutable: true}, asm.Code{}.RefNull(engines.ExternRef))
	m.Global("func", engines.GlobalType{Value: engines.FuncRef, Mutable: true}, asm.Code{}.RefNull(engines.FuncRef))
	m.Func("func_get", asm.Func(nil, asm.Types(engines.FuncRef)), asm.Code{}.GlobalGet(1))
	inst := load(t, e, m, host(engines.HostFunction{
		Name: "pass", Type: typ,
		Call: func(_ context.Context, _ engines.Caller, stack []uint64) error {
			for i := range stack {
				stack[i]++
			}
			return nil
		},
	}))
	f := function(t, inst, "pass")
	for round := range 20_000 { // enough for the collector of the instance to run
		stack := make([]uint64, n)
		for i := range stack {
			stack[i] = uint64(round*n + i)
		}
		if err := f.Call(t.Context(), stack); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for i := range stack {
			if want := uint64(round*n + i + 1); stack[i] != want {
				t.Fatalf("round %d: reference %d is %d, want %d", round, i, stack[i], want)
			}
		}
	}
	g := inst.Global("extern")
	for _, w := range []uint64{0, 1, 1 << 63, 0} {
		if err := g.Set(w); err != nil || g.Get() != w {
			t.Errorf("extern = %#x, %v, want %#x", g.Get(), err, w)
		}
	}
	g = inst.Global("func")
	if g.Get() != 0 || g.Set(0) != nil || g.Get() != 0 {
		t.Errorf("func = %#x, want null", g.Get())
	}
}

// A function that is passed as a reference can be put into a global and read
// from there.
func TestFuncRefs(t *testing.T) {
	e := newEngine(t)
	defer e.Close()
	m := new(asm.Module)
	m.Table("", 1)
	f := m.Func("answer", toI32, asm.Code{}.I32Const(42))
	m.Elem(0, f)
	m.Global("g", engines.GlobalType{Value: engines.FuncRef, Mutable: true}, asm.Code{}.RefNull(engines.FuncRef))
	const tableGet, tableSet, tableIndex = 0x25, 0x26, 0
	m.Func("get", asm.Func(nil, asm.Types(engines.FuncRef)), asm.Code{}.I32Const(0).Op(tableGet, tableIndex))
	m.Func("move", toNothing, asm.Code{}.I32Const(0).GlobalGet(0).Op(tableSet, tableIndex))
	m.Func("call", toI32, asm.Code{}.I32Const(0).CallIndirect(m.Type(toI32)))
	inst := load(t, e, m, engines.Imports{})
	stack := []uint64{0}
	if err := function(t, inst, "get").Call(t.Context(), stack); err != nil || stack[0] == 0 {
		t.Fatalf("get = %#x, %v", stack[0], err)
	}
	g := inst.Global("g")
	if err := g.Set(stack[0]); err != nil || g.Get() != stack[0] {
		t.Fatalf("the global is %#x, %v, want %#x", g.Get(), err, stack[0])
	}
	if err := function(t, inst, "move").Call(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := function(t, inst, "call").Call(t.Context(), stack); err != nil || stack[0] != 42 {
		t.Errorf("call = %d, %v, want 42", stack[0], err)
	}
}

func spinner(t testing.TB, e engines.WasmEngine, imports engines.Imports) engines.Instance {
	t.Helper()
	m := new(asm.Module)
	back := m.ImportFunc("env", "back", toNothing)
	m.Func("spin", toNothing, asm.Code{}.Loop().Br(0).End())
	m.Func("outer", toNothing, asm.Code{}.Call(back))
	m.Func("nothing", toNothing, nil)
	inst, err := compile(t, e, m, engines.CompileOptions{Interruptible: true}).Instantiate(t.Context(), imports)
	if err != nil {
		t.Fatal(err)
	}
	return inst
}

// A call that is interrupted takes down the calls of the guest below it, though
// a host function gave these a context of its own, and no other instance.
func TestInterruptNested(t *testing.T) {
	e := newEngine(t)
	defer e.Close()
	var spin engines.Func
	inst := spinner(t, e, host(engines.HostFunction{
		Name: "back", Type: toNothing,
		Call: func(context.Context, engines.Caller, []uint64) error { return spin.Call(context.Background(), nil) },
	}))
	spin = function(t, inst, "spin")
	noop := engines.HostFunction{Name: "back", Type: toNothing, Call: func(context.Context, engines.Caller, []uint64) error { return nil }}
	other := spinner(t, e, host(noop))

	var wg sync.WaitGroup
	wg.Go(func() { // runs beside, with a context that is not done before all is
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		err := function(t, other, "spin").Call(ctx, nil)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the other instance: %v, want its own deadline", err)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer time.AfterFunc(20*time.Millisecond, cancel).Stop()
	err := function(t, inst, "outer").Call(ctx, nil)
	if trap, ok := errors.AsType[*engines.Trap](err); !ok || trap.Class != engines.TrapInterrupted || !errors.Is(err, context.Canceled) {
		t.Errorf("outer = %v, want an interruption", err)
	}
	wg.Wait()
	// The instance is as it was, and so is the ticker after a rest.
	if err := function(t, inst, "nothing").Call(t.Context(), nil); err != nil {
		t.Errorf("a call after an interruption: %v", err)
	}
}

// Calls back and forth between host and guest without end take the stack of
// one thread: they end in a trap, not in the process's end.
func TestEndlessReentry(t *testing.T) {
	e := newEngine(t)
	defer e.Close()
	m := new(asm.Module)
	back := m.ImportFunc("env", "back", toNothing)
	m.Func("f", toNothing, asm.Code{}.Call(back))
	var f engines.Func
	inst := load(t, e, m, host(engines.HostFunction{
		Name: "back", Type: toNothing,
		Call: func(ctx context.Context, _ engines.Caller, _ []uint64) error { return f.Call(ctx, nil) },
	}))
	f = function(t, inst, "f")
	err := f.Call(t.Context(), nil)
	if trap, ok := errors.AsType[*engines.Trap](err); !ok || trap.Class != engines.TrapStackExhausted {
		t.Errorf("f = %v, want an exhausted stack", err)
	}
}

// Closing the engine ends its goroutine.
func TestCloseEndsTicker(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 20 {
		e := newEngine(t)
		m := new(asm.Module)
		compile(t, e, m, engines.CompileOptions{Interruptible: true})
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines before, %d after", before, after)
	}
}

// A trap's detail says where, and has nothing from the guest: its names could
// be anything.
func TestTrapDetail(t *testing.T) {
	e := newEngine(t)
	defer e.Close()
	m := new(asm.Module)
	m.Func("deep\x1b[2J\ndown", toNothing, asm.Code{}.Call(0).Call(0))
	m.Func("trap", toNothing, asm.Code{}.Op(asm.Unreachable))
	inst := load(t, e, m, engines.Imports{})
	for name, want := range map[string]string{
		"trap":              "unreachable",
		"deep\x1b[2J\ndown": "call stack exhausted",
	} {
		err := function(t, inst, name).Call(t.Context(), nil)
		trap, ok := errors.AsType[*engines.Trap](err)
		if !ok || !regexp.MustCompile(want).MatchString(trap.Detail) || !strings.Contains(trap.Detail, "\n\tfunction ") {
			t.Errorf("%q: %v, want a trap whose detail says %q and where", name, err, want)
			continue
		}
		if strings.Contains(trap.Detail, "\x1b") || len(trap.Detail) > 4096 {
			t.Errorf("%q: the detail is %d bytes: %.300q", name, len(trap.Detail), trap.Detail)
		}
	}
}

// A call allocates nothing, nor does a host function that uses memory.
func TestCallAllocatesNothing(t *testing.T) {
	e := newEngine(t)
	defer e.Close()
	inst := load(t, e, adder(), host(hostAdd))
	for _, name := range []string{"add", "call"} {
		f := function(t, inst, name)
		stack := make([]uint64, 2)
		if n := testing.AllocsPerRun(100, func() {
			stack[0], stack[1] = 1, 2
			if err := f.Call(context.Background(), stack); err != nil || stack[0] != 3 {
				t.Fatalf("%s = %d, %v", name, stack[0], err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations a call", name, n)
		}
	}
}

// adder exports add, and call, which calls the host's add.
func adder() *asm.Module {
	m := new(asm.Module)
	host := m.ImportFunc("env", "add", binaryI32)
	m.Func("add", binaryI32, asm.Code{}.LocalGet(0).LocalGet(1).Op(asm.I32Add))
	m.Func("call", binaryI32, asm.Code{}.LocalGet(0).LocalGet(1).Call(host))
	m.Memory("memory", 1)
	return m
}

var hostAdd = engines.HostFunction{
	Name: "add", Type: binaryI32,
	Call: func(_ context.Context, c engines.Caller, stack []uint64) error {
		if c.Memory().Size() == 0 {
			return errors.New("no memory")
		}
		stack[0] += stack[1]
		return nil
	},
}

// FuzzCompile feeds any bytes: an error that says which, or a module that can
// be instantiated or not, and the process lives.
func FuzzCompile(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte("\x00asm\x0d\x00\x01\x00"))
	f.Add(adder().Bytes())
	f.Fuzz(func(t *testing.T, wasm []byte) {
		e := newEngine(t)
		defer e.Close()
		mod, err := e.Compile(t.Context(), wasm, engines.CompileOptions{MemoryLimitPages: 16, Interruptible: true})
		if err != nil {
			if _, ok := errors.AsType[*engines.CompileError](err); !ok {
				t.Fatalf("Compile = %v (%T), want a CompileError", err, err)
			}
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		_, _ = mod.Instantiate(ctx, engines.Imports{}) // an error, or none
	})
}

// upstreamAdder is an instance of adder by wasmtime-go, whose host function
// does as hostAdd does.
func upstreamAdder(b *testing.B) (*upstream.Store, *upstream.Instance) {
	b.Helper()
	eng := upstream.NewEngine()
	store := upstream.NewStore(eng)
	mod, err := upstream.NewModule(eng, adder().Bytes())
	if err != nil {
		b.Fatal(err)
	}
	t := upstream.NewValType(upstream.KindI32)
	typ := upstream.NewFuncType([]*upstream.ValType{t, t}, []*upstream.ValType{t})
	fn := upstream.NewFunc(store, typ, func(c *upstream.Caller, args []upstream.Val) ([]upstream.Val, *upstream.Trap) {
		if c.GetExport("memory").Memory().DataSize(c) == 0 {
			return nil, upstream.NewTrap("no memory")
		}
		return []upstream.Val{upstream.ValI32(args[0].I32() + args[1].I32())}, nil
	})
	inst, err := upstream.NewInstance(store, mod, []upstream.AsExtern{fn})
	if err != nil {
		b.Fatal(err)
	}
	return store, inst
}

func benchmarkAdder(b *testing.B, name string) {
	b.Run("adapter", func(b *testing.B) {
		e := newEngine(b)
		defer e.Close()
		f := function(b, load(b, e, adder(), host(hostAdd)), name)
		stack := []uint64{1, 2}
		b.ReportAllocs()
		for b.Loop() {
			if err := f.Call(context.Background(), stack); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("upstream", func(b *testing.B) {
		store, inst := upstreamAdder(b)
		f := inst.GetFunc(store, name)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := f.Call(store, int32(1), int32(2)); err != nil {
				b.Fatal(err)
			}
		}
		runtime.KeepAlive(inst)
	})
}

// BenchmarkCall compares a call through the adapter with a call of wasmtime-go.
func BenchmarkCall(b *testing.B) { benchmarkAdder(b, "add") }

// BenchmarkHostCall is a call of a guest that calls the host, which looks at
// the size of the guest's memory.
func BenchmarkHostCall(b *testing.B) { benchmarkAdder(b, "call") }

// BenchmarkInterruptible is a call that a deadline can end.
func BenchmarkInterruptible(b *testing.B) {
	e := newEngine(b)
	defer e.Close()
	m := new(asm.Module)
	m.Func("add", binaryI32, asm.Code{}.LocalGet(0).LocalGet(1).Op(asm.I32Add))
	inst, err := compile(b, e, m, engines.CompileOptions{Interruptible: true}).Instantiate(b.Context(), engines.Imports{})
	if err != nil {
		b.Fatal(err)
	}
	f := function(b, inst, "add")
	ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
	defer cancel()
	stack := []uint64{1, 2}
	b.ReportAllocs()
	for b.Loop() {
		if err := f.Call(ctx, stack); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkInstantiate instantiates and closes a small module with a host
// function.
func BenchmarkInstantiate(b *testing.B) {
	e := newEngine(b)
	defer e.Close()
	mod := compile(b, e, adder(), engines.CompileOptions{})
	imports := host(hostAdd)
	b.ReportAllocs()
	for b.Loop() {
		inst, err := mod.Instantiate(b.Context(), imports)
		if err != nil {
			b.Fatal(err)
		}
		if err := inst.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func Example() {
	ctx := context.Background()
	e, err := wasmtime.New()
	if err != nil {
		panic(err)
	}
	defer e.Close()

	// A guest that never returns, and a deadline.
	m := new(asm.Module)
	m.Func("spin", toNothing, asm.Code{}.Loop().Br(0).End())
	mod, err := e.Compile(ctx, m.Bytes(), engines.CompileOptions{Interruptible: true})
	if err != nil {
		panic(err)
	}
	defer mod.Close()
	inst, err := mod.Instantiate(ctx, engines.Imports{})
	if err != nil {
		panic(err)
	}
	defer inst.Close()
	spin, err := inst.Func("spin")
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	fmt.Println(spin.Call(ctx, nil))
	// Output: wasm trap: interrupted: context deadline exceeded
}
