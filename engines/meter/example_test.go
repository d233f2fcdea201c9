package meter_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/engines/meter"
	"forgeone.dev/forgeone/engines/wazero"
)

func Example() {
	inner, err := wazero.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	engine := meter.Wrap(inner, meter.Limits{})
	defer engine.Close()

	m := new(asm.Module)
	m.Func("double", i32ToI32, asm.Code{}.LocalGet(0).I32Const(2).Op(asm.I32Mul))
	m.Func("spin", asm.Func(nil, nil), asm.Code{}.Loop().Br(0).End())
	for _, opts := range []engines.CompileOptions{{Fuel: 1000}, {Interruptible: true}} {
		mod, err := engine.Compile(context.Background(), m.Bytes(), opts)
		if err != nil {
			fmt.Println(err)
			return
		}
		inst, err := mod.Instantiate(context.Background(), engines.Imports{})
		if err != nil {
			fmt.Println(err)
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		double, err := inst.Func("double")
		if err != nil {
			fmt.Println(err)
			return
		}
		stack := []uint64{21}
		err = double.Call(ctx, stack)
		fmt.Println(stack[0], err, "fuel used:", inst.(engines.FuelMeter).FuelUsed())

		spin, err := inst.Func("spin")
		if err != nil {
			fmt.Println(err)
			return
		}
		err = spin.Call(ctx, nil)
		fmt.Println(err, errors.Is(err, context.DeadlineExceeded))
	}
	// Output:
	// 42 <nil> fuel used: 3
	// wasm trap: out of fuel false
	// 42 <nil> fuel used: 0
	// wasm trap: interrupted: context deadline exceeded true
}

// A guest is started once. Each call after that finds it as it was then.
func Example_snapshot() {
	inner, err := wazero.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	engine := meter.Wrap(inner, meter.Limits{})
	defer engine.Close()

	m := new(asm.Module)
	m.Memory("memory", 1)
	m.Func("next", asm.Func(nil, asm.Types(i32)), asm.Code{}.
		I32Const(0).I32Const(0).I32Load(0).I32Const(1).Op(asm.I32Add).I32Store(0).
		I32Const(0).I32Load(0))
	ctx := context.Background()
	mod, err := engine.Compile(ctx, m.Bytes(), engines.CompileOptions{Interruptible: true, Snapshots: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	next := func(inst engines.Instance) {
		f, err := inst.Func("next")
		if err != nil {
			fmt.Println(err)
			return
		}
		stack := make([]uint64, 1)
		err = f.Call(ctx, stack)
		fmt.Println(stack[0], err)
	}
	first, err := mod.Instantiate(ctx, engines.Imports{})
	if err != nil {
		fmt.Println(err)
		return
	}
	next(first)
	snapshot, err := mod.(engines.Snapshotter).Snapshot(first)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer snapshot.Close()
	again, err := snapshot.Instantiate(ctx, engines.Imports{})
	if err != nil {
		fmt.Println(err)
		return
	}
	next(again)
	fmt.Println(snapshot.Restore(again))
	next(again)
	// Output:
	// 1 <nil>
	// 2 <nil>
	// true
	// 2 <nil>
}
