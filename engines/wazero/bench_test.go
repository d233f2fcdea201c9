package wazero_test

import (
	"context"
	"testing"

	upstream "github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"forgeone.dev/forgeone/engines/enginetest/versus"
)

// BenchmarkAdapterOfWazero compares the adapter with wazero itself.
func BenchmarkAdapterOfWazero(b *testing.B) {
	ctx := context.Background()
	rt := upstream.NewRuntime(ctx)
	defer rt.Close(ctx)
	i32 := api.ValueTypeI32
	_, err := rt.NewHostModuleBuilder("env").NewFunctionBuilder().WithGoModuleFunction(
		api.GoModuleFunc(func(_ context.Context, _ api.Module, stack []uint64) {
			stack[0] = uint64(uint32(stack[0]) + uint32(stack[1]))
		}), []api.ValueType{i32, i32}, []api.ValueType{i32}).Export("add").Instantiate(ctx)
	if err != nil {
		b.Fatal(err)
	}
	mod, err := rt.Instantiate(ctx, versus.Adder())
	if err != nil {
		b.Fatal(err)
	}
	stack := make([]uint64, 2)
	call := func(f api.Function) func() error {
		return func() error {
			stack[0], stack[1] = 1, 2
			return f.CallWithStack(ctx, stack)
		}
	}
	e := newEngine(b)
	defer e.Close()
	versus.Bench(b, e, call(mod.ExportedFunction("add")), call(mod.ExportedFunction("hostcalls")))
}
