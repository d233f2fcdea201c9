//go:build wasmer && linux

package main

import (
	"debug/elf"
	"os"
	"slices"
	"strings"
	"testing"
)

// The engine that answers to "wasmer" is wasmer: the C functions that the
// binding calls come from libwasmer, which is mapped, and are not defined by
// another engine linked into this binary.
func TestWasmerIsWasmer(t *testing.T) {
	e, err := newEngine()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()
	if name := e.Info().Name; name != "wasmer" {
		t.Fatalf("the engine is %s", name)
	}

	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(maps), "/libwasmer.so") {
		t.Error("libwasmer.so is not mapped")
	}
	if strings.Contains(string(maps), "wasmtime") {
		t.Error("wasmtime is mapped")
	}

	exe, err := elf.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	libs, err := exe.ImportedLibraries()
	if err != nil || !slices.Contains(libs, "libwasmer.so") {
		t.Errorf("the binary needs the libraries %v (%v), want libwasmer.so among them", libs, err)
	}
	imported, err := exe.ImportedSymbols()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(imported, func(s elf.ImportedSymbol) bool { return s.Name == "wasm_instance_new" }) {
		t.Error("the binary does not import wasm_instance_new")
	}
	symbols, err := exe.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range symbols {
		if strings.HasPrefix(s.Name, "wasm_") && s.Section != elf.SHN_UNDEF || strings.HasPrefix(s.Name, "wasmtime_") {
			t.Errorf("the binary has the symbol %s of another engine", s.Name)
		}
	}
}
