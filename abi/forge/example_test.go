package forge_test

import (
	"context"
	"fmt"
	"os"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/abi/forge"
	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/engines/wazero"
	"forgeone.dev/forgeone/zta"
)

// A guest is compiled and bound once, and called on behalf of a call that the
// gate began.
func Example() {
	ctx := context.Background()
	engine, err := wazero.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer engine.Close()
	module, err := engine.Compile(ctx, greeter(), engines.CompileOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	binding, err := forge.New(module)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(binding.Functions())

	gate, closeLog := exampleGate()
	defer closeLog()
	subject := &abi.Subject{Plugin: "greeter", Identity: zta.Identity{ID: "example"}, TrustLevel: capability.Limited, Container: abi.NewContainer("c-1")}
	call, err := gate.Begin(ctx, subject, "greet", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	output, err := func() ([]byte, error) {
		instance, err := binding.Instantiate(call, module)
		if err != nil {
			return nil, err
		}
		defer instance.Close()
		return binding.Call(call, instance, "greet", nil)
	}()
	if err := call.End(output, err); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", output)
	// Output:
	// [greet]
	// hello
}

// greeter is a guest that says hello.
func greeter() []byte {
	var m asm.Module
	output := m.ImportFunc("forge", "output", importType["output"])
	m.Memory("memory", 1)
	m.Data(0, "hello")
	m.Func("forge_abi", function, asm.Code(nil).I32Const(int32(forge.Version)))
	m.Func("greet", function, asm.Code(nil).I32Const(0).I32Const(5).Call(output).I32Const(0))
	return m.Bytes()
}

// exampleGate is a gate that knows no syscalls, over a log of its own.
func exampleGate() (gate *abi.Gate, closeLog func()) {
	dir, err := os.MkdirTemp("", "forgeone")
	if err != nil {
		panic(err)
	}
	log, err := audit.Open(audit.Options{Dir: dir, Name: "forgeone/example", AllowGenerate: true})
	if err != nil {
		panic(err)
	}
	registry := new(abi.SyscallRegistry)
	graph, err := registry.Compile(nil, zta.Enforce)
	if err != nil {
		panic(err)
	}
	if gate, err = abi.NewGate(abi.GateOptions{Registry: registry, Graph: graph, Log: log}); err != nil {
		panic(err)
	}
	return gate, func() {
		_ = log.Close()
		_ = os.RemoveAll(dir)
	}
}
