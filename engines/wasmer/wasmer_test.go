//go:build wasmer

package wasmer_test

import (
	"context"
	"errors"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"

	upstream "github.com/wasmerio/wasmer-go/wasmer"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/engines/wasmer"
)

func newEngine(t testing.TB) engines.WasmEngine {
	t.Helper()
	e, err := wasmer.New()
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
	want := regexp.MustCompile(`github.com/wasmerio/wasmer-go v(\S+)`).FindSubmatch(mod)
	e := newEngine(t)
	defer e.Close()
	if got := e.Info().Version; want == nil || got != string(want[1]) {
		t.Errorf("Info().Version = %q, go.mod requires %q", got, want)
	}
}

// What wasmer-go would end the process for is refused by name, with a remedy.
func TestRefusals(t *testing.T) {
	e := newEngine(t)
	defer e.Close()
	identity := func(typ engines.ValueType) []byte {
		m := new(asm.Module)
		m.Func("f", asm.Func(asm.Types(typ), asm.Types(typ)), asm.Code{}.LocalGet(0))
		return m.Bytes()
	}
	imports := new(asm.Module)
	imports.ImportFunc("env", "f", asm.Func(nil, asm.Types(engines.ExternRef)))
	global := new(asm.Module)
	global.Global("g", engines.GlobalType{Value: engines.ExternRef, Mutable: true}, asm.Code{}.RefNull(engines.ExternRef))
	tables := new(asm.Module)
	tables.ImportTable("lib", "table", 1)
	tables.Table("", 1)
	for name, c := range map[string]struct {
		wasm []byte
		opts engines.CompileOptions
		want string
	}{
		"v128 export":        {identity(engines.V128), engines.CompileOptions{}, `v128 in the type of export "f"`},
		"externref export":   {identity(engines.ExternRef), engines.CompileOptions{}, `externref in the type of export "f"`},
		"funcref export":     {identity(engines.FuncRef), engines.CompileOptions{}, `funcref in the type of export "f"`},
		"externref import":   {imports.Bytes(), engines.CompileOptions{}, "externref in the type of import env.f"},
		"externref global":   {global.Bytes(), engines.CompileOptions{}, `externref in the type of export "g"`},
		"own and lent table": {tables.Bytes(), engines.CompileOptions{}, "a table beside an imported one"},
		"being interrupted":  {identity(engines.I32), engines.CompileOptions{Interruptible: true}, "leave the timeout off"},
	} {
		_, err := e.Compile(t.Context(), c.wasm, c.opts)
		if _, ok := errors.AsType[*engines.UnsupportedError](err); !ok ||
			!strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "wazero") {
			t.Errorf("%s: %v, want an UnsupportedError that says %q and what to use", name, err, c.want)
		}
	}
}

var (
	i32       = engines.I32
	toI32     = asm.Func(nil, asm.Types(i32))
	binaryI32 = asm.Func(asm.Types(i32, i32), asm.Types(i32))
)

func load(t testing.TB, e engines.WasmEngine, m *asm.Module, imports engines.Imports) engines.Instance {
	t.Helper()
	mod, err := e.Compile(t.Context(), m.Bytes(), engines.CompileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	inst, err := mod.Instantiate(t.Context(), imports)
	if err != nil {
		t.Fatal(err)
	}
	return inst
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
	importer := load(t, e, m, engines.Imports{Instances: map[string]engines.Instance{"lib": lender}})
	if err := importer.Close(); err != nil {
		t.Fatal(err)
	}

	call, err := lender.Func("call")
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		runtime.GC()
		stack := []uint64{0}
		if err := call.Call(t.Context(), stack); err != nil || stack[0] != 42 {
			t.Fatalf("call = %d, %v, want 42", stack[0], err)
		}
	}
	if err := lender.Close(); err != nil {
		t.Fatal(err)
	}
}

// Exports that the adapter adds are not seen, and do not take a guest's names.
func TestAddedExportsAreHidden(t *testing.T) {
	e := newEngine(t)
	defer e.Close()
	m := new(asm.Module)
	m.Memory("", 1)
	start := m.Func("memory", toI32, asm.Code{}.I32Const(1)) // what the adapter would like to use
	m.Func("start", toI32, asm.Code{}.Call(start))
	m.Global("ran", engines.GlobalType{Value: i32, Mutable: true}, asm.Code{}.I32Const(0))
	m.Start(m.Func("", asm.Func(nil, nil), asm.Code{}.I32Const(1).GlobalSet(0)))
	mod, err := e.Compile(t.Context(), m.Bytes(), engines.CompileOptions{})
	if err != nil {
		t.Fatal(err)
	}
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
	for _, name := range []string{"memory'", "start'"} {
		if _, err := inst.Func(name); err == nil {
			t.Errorf("the added export %q can be called", name)
		}
		if inst.Memory(name) != nil {
			t.Errorf("the added export %q can be used as a memory", name)
		}
	}
}

// A vector instruction that wasmer lacks is named, with a remedy.
func TestMissingInstruction(t *testing.T) {
	e := newEngine(t)
	defer e.Close()
	m := new(asm.Module)
	m.Func("", asm.Func(nil, nil), asm.Code{}.Op(0xfd, 12).Op(make([]byte, 16)...).Op(0xfd, 202, 1, asm.Drop))
	_, err := e.Compile(t.Context(), m.Bytes(), engines.CompileOptions{})
	if _, ok := errors.AsType[*engines.CompileError](err); !ok ||
		!strings.Contains(err.Error(), "I64x2ExtendHighI32x4U") || !strings.Contains(err.Error(), "use the engine wazero") {
		t.Errorf("i64x2.extend_high_i32x4_u: %v (%T)", err, err)
	}
}

func adder() *asm.Module {
	m := new(asm.Module)
	m.Func("add", binaryI32, asm.Code{}.LocalGet(0).LocalGet(1).Op(asm.I32Add))
	return m
}

// FuzzCompile feeds any bytes: an error that says which, or a module, and the
// process lives.
func FuzzCompile(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte("\x00asm\x0d\x00\x01\x00"))
	f.Add(adder().Bytes())
	f.Fuzz(func(t *testing.T, wasm []byte) {
		e := newEngine(t)
		defer e.Close()
		_, err := e.Compile(t.Context(), wasm, engines.CompileOptions{MemoryLimitPages: 16})
		if err == nil {
			return
		}
		_, malformed := errors.AsType[*engines.CompileError](err)
		_, unsupported := errors.AsType[*engines.UnsupportedError](err)
		if !malformed && !unsupported {
			t.Fatalf("Compile = %v (%T)", err, err)
		}
	})
}

// BenchmarkCall compares a call through the adapter with a call of wasmer-go.
func BenchmarkCall(b *testing.B) {
	b.Run("adapter", func(b *testing.B) {
		e := newEngine(b)
		defer e.Close()
		f, err := load(b, e, adder(), engines.Imports{}).Func("add")
		if err != nil {
			b.Fatal(err)
		}
		stack := []uint64{1, 2}
		b.ReportAllocs()
		for b.Loop() {
			if err := f.Call(context.Background(), stack); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("upstream", func(b *testing.B) {
		store := upstream.NewStore(upstream.NewEngine())
		mod, err := upstream.NewModule(store, adder().Bytes())
		if err != nil {
			b.Fatal(err)
		}
		inst, err := upstream.NewInstance(mod, upstream.NewImportObject())
		if err != nil {
			b.Fatal(err)
		}
		add, err := inst.Exports.GetFunction("add")
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := add(int32(1), int32(2)); err != nil {
				b.Fatal(err)
			}
		}
		runtime.KeepAlive(inst)
		runtime.KeepAlive(store)
	})
}
