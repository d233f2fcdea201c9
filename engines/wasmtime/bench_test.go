//go:build wasmtime

package wasmtime_test

import (
	"testing"

	upstream "github.com/bytecodealliance/wasmtime-go/v44"

	"forgeone.dev/forgeone/engines/enginetest/versus"
)

// BenchmarkAdapterOfWasmtime compares the adapter, which has a way of its own to
// Wasmtime, with wasmtime-go.
func BenchmarkAdapterOfWasmtime(b *testing.B) {
	engine := upstream.NewEngine()
	store := upstream.NewStore(engine)
	mod, err := upstream.NewModule(engine, versus.Adder())
	if err != nil {
		b.Fatal(err)
	}
	t := upstream.NewValType(upstream.KindI32)
	typ := upstream.NewFuncType([]*upstream.ValType{t, t}, []*upstream.ValType{t})
	host := upstream.NewFunc(store, typ, func(_ *upstream.Caller, args []upstream.Val) ([]upstream.Val, *upstream.Trap) {
		return []upstream.Val{upstream.ValI32(args[0].I32() + args[1].I32())}, nil
	})
	inst, err := upstream.NewInstance(store, mod, []upstream.AsExtern{host})
	if err != nil {
		b.Fatal(err)
	}
	add, hostCalls := inst.GetFunc(store, "add"), inst.GetFunc(store, "hostcalls")
	e := newEngine(b)
	defer e.Close()
	versus.Bench(b, e,
		func() error { _, err := add.Call(store, int32(1), int32(2)); return err },
		func() error { _, err := hostCalls.Call(store); return err })
}
