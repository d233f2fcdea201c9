package versus

import (
	"context"
	"fmt"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

var binary = asm.Func(asm.Types(engines.I32, engines.I32), asm.Types(engines.I32))

// HostCalls is how often Adder's "hostcalls" calls the host.
const HostCalls = 1000

// Adder is a module that exports "add", from two i32 to one, and "hostcalls",
// which takes and returns nothing and calls add of the module env, of the same
// type.
func Adder() []byte {
	m := new(asm.Module)
	host := m.ImportFunc("env", "add", binary)
	m.Func("add", binary, asm.Code{}.LocalGet(0).LocalGet(1).Op(asm.I32Add))
	m.Func("hostcalls", asm.Func(nil, nil), asm.Code{}.I32Const(HostCalls).LocalSet(0).
		Loop().LocalGet(0).LocalGet(0).Call(host).Op(asm.Drop).
		LocalGet(0).I32Const(1).Op(asm.I32Sub).Op(0x22, 0).BrIf(0).End(), engines.I32) // 0x22: local.tee
	return m.Bytes()
}

// Bench compares an adapter with the binding that it is made of, each with its
// own instance of Adder: a call of "add", and HostCalls calls of the host.
func Bench(b *testing.B, e engines.WasmEngine, add, hostCalls func() error) {
	b.Helper()
	mod, err := e.Compile(b.Context(), Adder(), engines.CompileOptions{})
	if err != nil {
		b.Fatal(err)
	}
	inst, err := mod.Instantiate(b.Context(), engines.Imports{Host: map[string]*engines.HostModule{"env": {Functions: []engines.HostFunction{{
		Name: "add", Type: binary,
		Call: func(_ context.Context, _ engines.Caller, stack []uint64) error {
			stack[0] = uint64(uint32(stack[0]) + uint32(stack[1]))
			return nil
		},
	}}}}})
	if err != nil {
		b.Fatal(err)
	}
	defer inst.Close()
	for _, row := range []struct {
		name, export string
		binding      func() error
	}{
		{"call", "add", add},
		{fmt.Sprint(HostCalls, "-host-calls"), "hostcalls", hostCalls},
	} {
		f, err := inst.Func(row.export)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(row.name, func(b *testing.B) {
			ctx, stack := context.Background(), make([]uint64, 2)
			Run(b, Rival{"binding", row.binding}, Rival{"adapter", func() error {
				stack[0], stack[1] = 1, 2
				return f.Call(ctx, stack)
			}})
		})
	}
}
