//go:build wasmer

package wasmer_test

import (
	"runtime"
	"testing"

	upstream "github.com/wasmerio/wasmer-go/wasmer"

	"forgeone.dev/forgeone/engines/enginetest/versus"
)

// BenchmarkAdapterOfWasmer compares the adapter with wasmer-go.
func BenchmarkAdapterOfWasmer(b *testing.B) {
	store := upstream.NewStore(upstream.NewEngine())
	mod, err := upstream.NewModule(store, versus.Adder())
	if err != nil {
		b.Fatal(err)
	}
	typ := upstream.NewFunctionType(upstream.NewValueTypes(upstream.I32, upstream.I32), upstream.NewValueTypes(upstream.I32))
	imports := upstream.NewImportObject()
	imports.Register("env", map[string]upstream.IntoExtern{"add": upstream.NewFunction(store, typ, func(args []upstream.Value) ([]upstream.Value, error) {
		return []upstream.Value{upstream.NewI32(args[0].I32() + args[1].I32())}, nil
	})})
	inst, err := upstream.NewInstance(mod, imports)
	if err != nil {
		b.Fatal(err)
	}
	export := func(name string) upstream.NativeFunction {
		f, err := inst.Exports.GetFunction(name)
		if err != nil {
			b.Fatal(err)
		}
		return f
	}
	add, hostCalls := export("add"), export("hostcalls")
	e := newEngine(b)
	defer e.Close()
	versus.Bench(b, e,
		func() error { _, err := add(int32(1), int32(2)); return err },
		func() error { _, err := hostCalls(); return err })
	runtime.KeepAlive(inst)
	runtime.KeepAlive(store)
}
