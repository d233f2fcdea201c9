package host_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/wazero"
	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/syscalls"
	"forgeone.dev/forgeone/zta"
)

// addModule is (module (func (export "add") (param i32 i32) (result i32)
// local.get 0 local.get 1 i32.add)).
var addModule = []byte("\x00asm\x01\x00\x00\x00\x01\x07\x01\x60\x02\x7f\x7f\x01\x7f\x03\x02\x01\x00\x07\x07\x01\x03add\x00\x00\x0a\x09\x01\x07\x00\x20\x00\x20\x01\x6a\x0b")

// Load a WASM module and call a function of it.
func ExampleWasmHost() {
	ctx := context.Background()
	h, err := host.NewWasmHost(wazero.New)
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(h.AuditDir()) // its private log; keep it to audit what happened
	defer h.Close()

	module, err := h.LoadModule(ctx, "my_module", addModule)
	if err != nil {
		panic(err)
	}
	fmt.Println("exports:", module.Exports[0].Name, module.Exports[0].Type.Func)

	result, err := h.CallFunction(ctx, "my_module", "add", engines.ValueI32(1), engines.ValueI32(2))
	if err != nil {
		panic(err)
	}
	fmt.Println("result:", result[0])

	if err := h.UnloadModule(ctx, "my_module"); err != nil {
		panic(err)
	}
	// Output:
	// exports: add (i32, i32) -> (i32)
	// result: 3
}

// Load a plugin with capabilities and take it through its life.
func ExamplePluginHost() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "forgeone-example-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "my_plugin.wasm")
	if err := os.WriteFile(path, addModule, 0o600); err != nil {
		panic(err)
	}

	var registry abi.SyscallRegistry
	if err := registry.Register(syscalls.Registrations(syscalls.Options{})...); err != nil {
		panic(err)
	}
	h, err := host.NewPluginHost(
		host.WithEngine(wazero.New),
		host.WithSyscalls(&registry),
		host.WithPolicies(zta.Enforce, zta.Policy{Name: "files", Syscalls: []string{"file_*"}}),
	)
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(h.AuditDir())
	defer h.Close(ctx)

	capabilities, err := capability.New(capability.Grant{
		Syscalls: []string{"read_file", "write_file"},
	})
	if err != nil {
		panic(err)
	}
	id, err := h.LoadPlugin(ctx, host.PluginConfig{
		Name:         "my_plugin",
		Version:      "1.0.0",
		WasmModule:   path,
		Capabilities: capabilities,
		TrustLevel:   capability.Standard,
	})
	if err != nil {
		panic(err)
	}
	show := func() {
		p, _ := h.Plugin(id)
		fmt.Println(p.Name, p.Status)
	}
	show()
	if err := h.StartPlugin(ctx, id); err != nil {
		panic(err)
	}
	show()
	result, err := h.Call(ctx, id, "add", []byte("1 2"))
	if err != nil {
		panic(err)
	}
	fmt.Printf("result: %s\n", result)
	if err := h.StopPlugin(ctx, id); err != nil {
		panic(err)
	}
	show()
	if err := h.UnloadPlugin(ctx, id); err != nil {
		panic(err)
	}
	// Output:
	// my_plugin stopped
	// my_plugin active
	// result: 3
	// my_plugin stopped
}
