package engines_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"testing"

	"pgregory.net/rapid"

	"forgeone.dev/forgeone/engines"
)

func TestValuesKeepTheirBits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		i32, i64 := rapid.Int32().Draw(t, "i32"), rapid.Int64().Draw(t, "i64")
		if v := engines.ValueI32(i32); v.I32() != i32 || v.Bits > math.MaxUint32 || v.String() != fmt.Sprint(i32) {
			t.Errorf("i32 %d: %+v", i32, v)
		}
		if v := engines.ValueI64(i64); v.I64() != i64 || v.String() != fmt.Sprint(i64) {
			t.Errorf("i64 %d: %+v", i64, v)
		}
		f32 := math.Float32frombits(rapid.Uint32().Draw(t, "f32"))
		if v := engines.ValueF32(f32); math.Float32bits(v.F32()) != math.Float32bits(f32) || v.Bits > math.MaxUint32 {
			t.Errorf("f32 %x: %+v", math.Float32bits(f32), v)
		}
		f64 := math.Float64frombits(rapid.Uint64().Draw(t, "f64"))
		if v := engines.ValueF64(f64); math.Float64bits(v.F64()) != math.Float64bits(f64) {
			t.Errorf("f64 %x: %+v", math.Float64bits(f64), v)
		}
	})
}

func TestFuncType(t *testing.T) {
	i32, v128 := engines.I32, engines.V128
	list := func(ts ...engines.ValueType) []engines.ValueType { return ts }
	for _, c := range []struct {
		typ   engines.FuncType
		slots int
		text  string
	}{
		{engines.FuncType{}, 0, "() -> ()"},
		{engines.FuncType{Params: list(i32, engines.I64)}, 2, "(i32, i64) -> ()"},
		{engines.FuncType{Params: list(i32), Results: list(engines.F32, engines.F64, engines.FuncRef)}, 3, "(i32) -> (f32, f64, funcref)"},
		{engines.FuncType{Params: list(v128, i32), Results: list(v128)}, 3, "(v128, i32) -> (v128)"}, // a v128 takes two
	} {
		if c.typ.Slots() != c.slots || c.typ.String() != c.text || !c.typ.Equal(c.typ) {
			t.Errorf("%s: %d slots, want %s, %d", c.typ, c.typ.Slots(), c.text, c.slots)
		}
	}
	if (engines.FuncType{Params: list(i32)}).Equal(engines.FuncType{Results: list(i32)}) {
		t.Error("a parameter is taken for a result")
	}
}

// Each error says what it is about, and unwraps to its cause.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		text string
		is   error
	}{
		{&engines.Trap{Class: engines.TrapDivideByZero, Detail: "stack"}, "wasm trap: integer divide by zero", nil},
		{&engines.Trap{Class: engines.TrapInterrupted, Cause: context.Canceled}, "wasm trap: interrupted: context canceled", context.Canceled},
		{&engines.Trap{Detail: "odd"}, "wasm trap: odd", nil},
		{&engines.Trap{Class: 99}, "wasm trap: unknown trap", nil},
		{&engines.HostError{Module: "env", Name: "f", Err: io.EOF}, "host function env.f: EOF", io.EOF},
		{&engines.HostError{Module: "env", Name: "f", Err: engines.Panicked(io.EOF)}, "host function env.f: panic: EOF", io.EOF},
		{engines.Panicked("oops"), "panic: oops", nil},
		{&engines.CompileError{Engine: "wazero", Err: io.EOF}, "wazero: compile: EOF", io.EOF},
		{&engines.LinkError{Module: "env", Name: "f", Reason: "none"}, "import env.f: none", nil},
		{&engines.ExportError{Name: "f", Reason: "none"}, `export "f": none`, nil},
		{&engines.ArgumentError{Func: "f", Want: 2, Got: 1}, `function "f" takes a stack of at least 2 words, got 1`, nil},
		{&engines.UnsupportedError{Engine: "wasmer", Feature: "x", Reason: "y"}, "engine wasmer does not support x: y", nil},
	} {
		if c.err.Error() != c.text {
			t.Errorf("%T: %q, want %q", c.err, c.err, c.text)
		}
		if c.is != nil && !errors.Is(c.err, c.is) {
			t.Errorf("%q does not unwrap to %v", c.err, c.is)
		}
	}
}

func ExampleFuncType() {
	add := engines.FuncType{
		Params:  []engines.ValueType{engines.I32, engines.I32},
		Results: []engines.ValueType{engines.I32},
	}
	fmt.Println(add, add.Slots())
	// Output: (i32, i32) -> (i32) 2
}
