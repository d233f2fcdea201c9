//go:build linux || darwin

package worker_test

import (
	"context"
	"fmt"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/engines/worker"
)

// An engine in a process of its own is used as any other.
func ExampleNew() {
	cfg, err := testBinary() // in production: forgeone-engine and its checksum
	if err != nil {
		fmt.Println(err)
		return
	}
	e, err := worker.New(worker.Config{Binary: cfg.Binary, SHA256: cfg.SHA256, Env: map[string]string{roleEnv: "wazero"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer e.Close()

	m := new(asm.Module)
	m.Func("add", binaryI32, asm.Code{}.LocalGet(0).LocalGet(1).Op(asm.I32Add))
	ctx := context.Background()
	mod, err := e.Compile(ctx, m.Bytes(), engines.CompileOptions{Interruptible: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	inst, err := mod.Instantiate(ctx, engines.Imports{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer inst.Close()
	add, err := inst.Func("add")
	if err != nil {
		fmt.Println(err)
		return
	}
	stack := []uint64{1, 2}
	err = add.Call(ctx, stack)
	fmt.Println(e.Info().Name, stack[0], err)
	// Output: wazero 3 <nil>
}
