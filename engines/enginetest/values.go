package enginetest

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

var valueCases = []testCase{
	{name: "values/each type keeps its bits", run: testIdentity},
	{name: "values/multi-value in and out", run: testMultiValue},
	{name: "values/twenty parameters", run: testManyParams},
	{name: "values/references", needs: "RefValues", run: testReferences},
	{name: "values/v128", needs: "V128Values", run: testV128},
	{name: "values/v128 is refused", needs: "V128Values", refusal: true, run: testV128Refused},
	{name: "values/stack too short", run: testShortStack},
	{name: "values/stack with room to spare", run: testLongStack},
}

func identity(types ...engines.ValueType) *asm.Module {
	m := new(asm.Module)
	for _, t := range types {
		m.Func(t.String(), asm.Func(asm.Types(t), asm.Types(t)), asm.Code{}.LocalGet(0))
	}
	return m
}

func testIdentity(t *testing.T, e engines.WasmEngine) {
	inst := load(t, e, identity(i32, i64, f32, f64))
	for typ, words := range map[engines.ValueType][]uint64{
		i32: {0, 1, math.MaxInt32, 1 << 31, math.MaxUint32},
		i64: {0, 1, math.MaxInt64, 1 << 63, math.MaxUint64},
		// -0, infinities, the smallest denormal, quiet and signalling NaNs with payload
		f32: {0, 0x80000000, 0x7f800000, 0xff800000, 1, 0x7fc12345, 0x7fa12345},
		f64: {0, 1 << 63, 0x7ff0000000000000, 0xfff0000000000000, 1, 0x7ff8123456789abc, 0x7ff4123456789abc},
	} {
		for _, w := range words {
			want(t, inst, w, typ.String(), w)
		}
	}
	// The upper half of a 32-bit value's word is ignored, and comes back as zero.
	want(t, inst, 7, "i32", 0xdeadbeef_00000007)
	want(t, inst, 0x3f800000, "f32", 0xdeadbeef_3f800000)
}

func testMultiValue(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	typ := asm.Func(asm.Types(i32, i64, f32, f64), asm.Types(f64, f32, i64, i32, i32))
	m.Func("reverse", typ, asm.Code{}.LocalGet(3).LocalGet(2).LocalGet(1).LocalGet(0).I32Const(-1))
	f := fn(t, load(t, e, m), "reverse")
	if !f.Type().Equal(typ) {
		t.Errorf("Type() = %s, want %s", f.Type(), typ)
	}
	in := []engines.Value{engines.ValueI32(-2), engines.ValueI64(math.MinInt64), engines.ValueF32(1.5), engines.ValueF64(-0.25)}
	stack := []uint64{in[0].Bits, in[1].Bits, in[2].Bits, in[3].Bits, 0}
	if err := f.Call(bg(), stack); err != nil {
		t.Fatal(err)
	}
	if w := []uint64{in[3].Bits, in[2].Bits, in[1].Bits, in[0].Bits, math.MaxUint32}; !slices.Equal(stack, w) {
		t.Errorf("reverse = %#x, want %#x", stack, w)
	}
}

func testManyParams(t *testing.T, e engines.WasmEngine) {
	const n = 20
	m := new(asm.Module)
	code := asm.Code{}.I64Const(0)
	for i := range uint32(n) {
		code = code.LocalGet(i).Op(asm.I64Add)
	}
	m.Func("sum", asm.Func(slices.Repeat(asm.Types(i64), n), asm.Types(i64)), code)
	params := make([]uint64, n)
	for i := range params {
		params[i] = 1 << i
	}
	want(t, load(t, e, m), 1<<n-1, "sum", params...)
}

func testReferences(t *testing.T, e engines.WasmEngine) {
	inst := load(t, e, identity(engines.ExternRef, engines.FuncRef))
	want(t, inst, 0, "externref", 0)
	want(t, inst, 0xfeed, "externref", 0xfeed)
	want(t, inst, 0, "funcref", 0)
	want(t, throughHost(t, e, engines.ExternRef), 0xfeed, "f", 0xfeed)
	want(t, throughHost(t, e, engines.FuncRef), 0, "f", 0)
}

func testV128(t *testing.T, e engines.WasmEngine) {
	v := []uint64{1, math.MaxUint64}
	got, err := invoke(load(t, e, identity(engines.V128)), "v128", v...)
	if err != nil || !slices.Equal(got, v) {
		t.Errorf("v128 = %#x, %v", got, err)
	}
	got, err = invoke(throughHost(t, e, engines.V128), "f", v...)
	if err != nil || !slices.Equal(got, v) {
		t.Errorf("v128 through the host = %#x, %v", got, err)
	}
}

// throughHost returns a guest whose f passes a value to the host and back.
func throughHost(t *testing.T, e engines.WasmEngine, typ engines.ValueType) engines.Instance {
	t.Helper()
	m := new(asm.Module)
	f := asm.Func(asm.Types(typ), asm.Types(typ))
	host := m.ImportFunc("env", "f", f)
	m.Func("f", f, asm.Code{}.LocalGet(0).Call(host))
	return load(t, e, m, env(engines.HostFunction{
		Name: "f", Type: f,
		Call: func(_ context.Context, _ engines.Caller, stack []uint64) error {
			if len(stack) != f.Slots() {
				return fmt.Errorf("the stack has %d words, want %d", len(stack), f.Slots())
			}
			return nil
		},
	}))
}

func testV128Refused(t *testing.T, e engines.WasmEngine) {
	_, err := e.Compile(bg(), identity(engines.V128).Bytes(), engines.CompileOptions{})
	wantAs[*engines.UnsupportedError](t, err)
}

func testShortStack(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	m.Func("add", binaryI32, asm.Code{}.LocalGet(0).LocalGet(1).Op(asm.I32Add))
	m.Func("two", asm.Func(nil, asm.Types(i32, i32)), asm.Code{}.I32Const(1).I32Const(2))
	inst := load(t, e, m)
	for _, c := range []struct {
		name  string
		stack []uint64
	}{{"add", nil}, {"add", make([]uint64, 1)}, {"two", nil}, {"two", make([]uint64, 1)}} {
		err := wantAs[*engines.ArgumentError](t, fn(t, inst, c.name).Call(bg(), c.stack))
		if (*err != engines.ArgumentError{Func: c.name, Want: 2, Got: len(c.stack)}) {
			t.Errorf("%s with %d words: %+v", c.name, len(c.stack), *err)
		}
	}
}

func testLongStack(t *testing.T, e engines.WasmEngine) {
	stack := []uint64{5, 99}
	if err := fn(t, load(t, e, identity(i32)), "i32").Call(bg(), stack); err != nil {
		t.Fatal(err)
	}
	if stack[0] != 5 || stack[1] != 99 {
		t.Errorf("stack = %d, want [5 99]", stack)
	}
}
