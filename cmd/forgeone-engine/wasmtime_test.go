//go:build wasmtime && linux

package main

import (
	"debug/elf"
	"errors"
	"os"
	"strings"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

// The engine that answers to "wasmtime" is Wasmtime: the C functions that two
// engines have in common are linked in with those that it alone has, none is
// left to a library, none is wasmer's, and what it says of a trap is in its words.
func TestWasmtimeIsWasmtime(t *testing.T) {
	e, err := newEngine()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()
	if name := e.Info().Name; name != "wasmtime" {
		t.Fatalf("the engine is %s", name)
	}

	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(maps), "libwasmer") {
		t.Error("libwasmer is mapped")
	}

	exe, err := elf.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	imported, err := exe.ImportedSymbols()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range imported {
		if strings.HasPrefix(s.Name, "wasm_") || strings.HasPrefix(s.Name, "wasmtime_") {
			t.Errorf("the binary takes the symbol %s from a library", s.Name)
		}
	}
	if symbols, err := exe.Symbols(); err == nil { // a stripped binary has none
		defined := make(map[string]bool)
		for _, s := range symbols {
			defined[s.Name] = s.Section != elf.SHN_UNDEF
		}
		for _, name := range []string{"wasm_engine_new_with_config", "wasmtime_engine_increment_epoch", "wasmtime_instance_new"} {
			if !defined[name] {
				t.Errorf("the binary does not define %s", name)
			}
		}
		for name := range defined {
			if strings.HasPrefix(name, "wasmer_") {
				t.Errorf("the binary has the symbol %s of another engine", name)
			}
		}
	}

	m := new(asm.Module)
	m.Func("trap", asm.Func(nil, nil), asm.Code{}.Op(asm.Unreachable))
	mod, err := e.Compile(t.Context(), m.Bytes(), engines.CompileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	inst, err := mod.Instantiate(t.Context(), engines.Imports{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := inst.Func("trap")
	if err != nil {
		t.Fatal(err)
	}
	err = f.Call(t.Context(), nil)
	if trap, ok := errors.AsType[*engines.Trap](err); !ok || !strings.Contains(trap.Detail, "wasm trap: wasm `unreachable` instruction executed") {
		t.Errorf("%#v is not what Wasmtime says of a trap", err)
	}
}
