package enginetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

var hostCases = []testCase{
	{name: "host/every value type", run: testHostValues},
	{name: "host/32-bit values are clean", run: testHostCleanWords},
	{name: "host/context comes from the call", run: testHostContext},
	{name: "host/errors", run: testHostErrors},
	{name: "host/panics", run: testHostPanics},
	{name: "host/many errors under garbage collection", run: testHostErrorsGC},
	{name: "host/memory of the caller", run: testCallerMemory},
	{name: "host/no memory", run: testCallerNoMemory},
	{name: "host/calls back into the guest", run: testReentry},
	{name: "host/error of a call back", run: testReentryError},
	{name: "host/a function that is exported again", run: testHostReexport},
}

func testHostValues(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	typ := asm.Func(asm.Types(i32, i64, f32, f64), asm.Types(f64, f32, i64, i32))
	host := m.ImportFunc("env", "reverse", typ)
	m.Func("reverse", typ, asm.Code{}.LocalGet(0).LocalGet(1).LocalGet(2).LocalGet(3).Call(host))
	var got []uint64
	inst := load(t, e, m, env(engines.HostFunction{
		Name: "reverse", Type: typ,
		Call: func(_ context.Context, _ engines.Caller, stack []uint64) error {
			got = slices.Clone(stack)
			slices.Reverse(stack)
			return nil
		},
	}))
	in := []uint64{math.MaxUint32, 1 << 63, 0x7fc12345, 0x7ff8123456789abc}
	out, err := invoke(inst, "reverse", in...)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, in) {
		t.Errorf("the host got %#x, want %#x", got, in)
	}
	if slices.Reverse(in); !slices.Equal(out, in) {
		t.Errorf("the guest got %#x, want %#x", out, in)
	}
}

// What is above a 32-bit value in its word reaches neither side.
func testHostCleanWords(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	host := m.ImportFunc("env", "f", i32ToI32)
	m.Func("f", asm.Func(asm.Types(i64), asm.Types(i64)), asm.Code{}.LocalGet(0).Op(asm.I32WrapI64).Call(host).Op(asm.I64ExtendI32U))
	var got uint64
	inst := load(t, e, m, env(engines.HostFunction{
		Name: "f", Type: i32ToI32,
		Call: func(_ context.Context, _ engines.Caller, stack []uint64) error {
			got = stack[0]
			stack[0] = 0xdeadbeef_00000008
			return nil
		},
	}))
	want(t, inst, 8, "f", 0xdeadbeef_00000007)
	if got != 7 {
		t.Errorf("the host got %#x, want 7", got)
	}
}

func testHostContext(t *testing.T, e engines.WasmEngine) {
	type key struct{}
	m := new(asm.Module)
	m.Export("f", engines.KindFunc, m.Func("", toNothing, asm.Code{}.Call(m.ImportFunc("env", "f", toNothing))))
	var got any
	inst := load(t, e, m, env(engines.HostFunction{
		Name: "f", Type: toNothing,
		Call: func(ctx context.Context, _ engines.Caller, _ []uint64) error {
			got = ctx.Value(key{})
			return nil
		},
	}))
	f := fn(t, inst, "f")
	for _, v := range []string{"first", "second"} {
		if err := f.Call(context.WithValue(bg(), key{}, v), nil); err != nil || got != v {
			t.Errorf("the host function's context holds %v (%v), want %q", got, err, v)
		}
	}
}

var errOfHost = errors.New("error of the host")

// failing returns a guest whose "call" calls a host function that ends with fail.
func failing(t testing.TB, e engines.WasmEngine, fail func() error) engines.Instance {
	t.Helper()
	m := new(asm.Module)
	host := m.ImportFunc("env", "fail", i32ToI32)
	m.Func("call", i32ToI32, asm.Code{}.LocalGet(0).Call(host))
	return load(t, e, m, env(engines.HostFunction{
		Name: "fail", Type: i32ToI32,
		Call: func(_ context.Context, _ engines.Caller, stack []uint64) error {
			if stack[0] == 0 {
				return fail()
			}
			return nil
		},
	}))
}

// wantHostError fails the test unless calling a guest of [failing] ends with
// the host function's error, and a call after it works.
func wantHostError(t testing.TB, inst engines.Instance) *engines.HostError {
	t.Helper()
	_, err := invoke(inst, "call", 0)
	host := wantAs[*engines.HostError](t, err)
	if host.Module != "env" || host.Name != "fail" {
		t.Errorf("the error is of %s.%s, want env.fail", host.Module, host.Name)
	}
	want(t, inst, 3, "call", 3)
	return host
}

func testHostErrors(t *testing.T, e engines.WasmEngine) {
	err := wantHostError(t, failing(t, e, func() error { return fmt.Errorf("wrapped: %w", errOfHost) }))
	wantIs(t, err, errOfHost)
	var trap *engines.Trap
	if errors.As(err, &trap) {
		t.Errorf("an error of the host is reported as the trap %v", trap)
	}
}

func testHostPanics(t *testing.T, e engines.WasmEngine) {
	wantIs(t, wantHostError(t, failing(t, e, func() error { panic(errOfHost) })), errOfHost)
	wantHostError(t, failing(t, e, func() error { panic("a string") }))
	err := wantHostError(t, failing(t, e, func() error { var p *int; *p = 1; return nil }))
	wantAs[runtime.Error](t, err)
}

// Engines in other languages free what a finalizer of their Go binding frees
// too; it shows when the collector runs between errors.
func testHostErrorsGC(t *testing.T, e engines.WasmEngine) {
	inst := failing(t, e, func() error { return errOfHost })
	for range 50 {
		for range 20 {
			_, err := invoke(inst, "call", 0)
			wantIs(t, err, errOfHost)
		}
		runtime.GC()
	}
}

func testCallerMemory(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	host := m.ImportFunc("env", "double", toNothing)
	m.Memory("", 1) // not exported: a host function sees it all the same
	m.Data(8, "\x15\x00\x00\x00")
	m.Func("run", toI32, asm.Code{}.Call(host).I32Const(8).I32Load(0))
	m.Start(m.Func("", toNothing, asm.Code{}.Call(host))) // and so it does in a start function
	inst := load(t, e, m, env(engines.HostFunction{
		Name: "double", Type: toNothing,
		Call: func(_ context.Context, c engines.Caller, _ []uint64) error {
			var b [1]byte
			if mem := c.Memory(); !mem.Read(8, b[:]) || !mem.Write(8, []byte{b[0] * 2}) {
				return errOfHost
			}
			return nil
		},
	}))
	want(t, inst, 0x15*4, "run")
}

func testCallerNoMemory(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	m.Export("f", engines.KindFunc, m.Func("", toNothing, asm.Code{}.Call(m.ImportFunc("env", "f", toNothing))))
	inst := load(t, e, m, env(engines.HostFunction{
		Name: "f", Type: toNothing,
		Call: func(_ context.Context, c engines.Caller, _ []uint64) error {
			if mem := c.Memory(); mem != nil {
				return fmt.Errorf("memory is %v, want nil", mem)
			}
			return nil
		},
	}))
	if _, err := invoke(inst, "f"); err != nil {
		t.Error(err)
	}
}

// recursive returns a guest whose sum(n) is n + host(n-1), and 0 for 0, where
// the host calls sum of the same instance. sum(-1) traps.
func recursive(t testing.TB, e engines.WasmEngine) engines.Instance {
	t.Helper()
	m := new(asm.Module)
	host := m.ImportFunc("env", "sum", i32ToI32)
	m.Func("sum", i32ToI32, asm.Code{}.
		LocalGet(0).I32Const(-1).Op(asm.I32Sub, asm.I32Eqz).If().Op(asm.Unreachable).End().
		LocalGet(0).Op(asm.I32Eqz).If().I32Const(0).Op(asm.Return).End().
		LocalGet(0).LocalGet(0).I32Const(1).Op(asm.I32Sub).Call(host).Op(asm.I32Add))
	m.Func("trap", i32ToI32, asm.Code{}.I32Const(-1).Call(host))
	var sum engines.Func
	inst := load(t, e, m, env(engines.HostFunction{
		Name: "sum", Type: i32ToI32,
		Call: func(ctx context.Context, _ engines.Caller, stack []uint64) error { return sum.Call(ctx, stack) },
	}))
	sum = fn(t, inst, "sum")
	return inst
}

func testReentry(t *testing.T, e engines.WasmEngine) {
	want(t, recursive(t, e), 55, "sum", 10)
}

func testReentryError(t *testing.T, e engines.WasmEngine) {
	inst := recursive(t, e)
	_, err := invoke(inst, "trap", 0)
	wantAs[*engines.HostError](t, err)
	wantTrap(t, err, engines.TrapUnreachable)
	want(t, inst, 6, "sum", 3)
}

func testHostReexport(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	m.Export("again", engines.KindFunc, m.ImportFunc("env", "f", i32ToI32))
	inst := load(t, e, m, env(engines.HostFunction{
		Name: "f", Type: i32ToI32,
		Call: func(_ context.Context, _ engines.Caller, stack []uint64) error {
			if stack[0] == 0 {
				return errOfHost
			}
			stack[0]++
			return nil
		},
	}))
	want(t, inst, 42, "again", 41)
	_, err := invoke(inst, "again", 0)
	wantAs[*engines.HostError](t, err)
	wantIs(t, err, errOfHost)
}
