package wazero_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

// imageFile is a file of that many pages.
func imageFile(t testing.TB, pages int) *os.File {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	if err := file.Truncate(int64(pages) * engines.PageSize); err != nil {
		t.Fatal(err)
	}
	return file
}

// memoryOf is a module with a memory of that many pages, with data in each, that
// ends at 1,024.
func memoryOf(pages uint32) *asm.Module {
	m := new(asm.Module)
	m.Memory("memory", pages, 1024)
	for p := range pages {
		m.Data(int32(p*engines.PageSize), "data")
	}
	m.Func("first", asm.Func(nil, asm.Types(i32)), asm.Code{}.I32Const(0).I32Load(0))
	return m
}

func mustCompile(t testing.TB, e engines.WasmEngine, m *asm.Module, opts engines.CompileOptions) engines.Module {
	t.Helper()
	mod, err := e.Compile(t.Context(), m.Bytes(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return mod
}

func mustInstantiate(t testing.TB, mod engines.Module, imports engines.Imports) engines.Instance {
	t.Helper()
	inst, err := mod.Instantiate(t.Context(), imports)
	if err != nil {
		t.Fatal(err)
	}
	return inst
}

func mustMap(t testing.TB, inst engines.Instance, file *os.File, pages int) {
	t.Helper()
	if err := inst.(engines.MemoryMapper).MapMemory("memory", file, uint64(pages)*engines.PageSize); err != nil {
		t.Fatal(err)
	}
}

func mustClose(t testing.TB, c interface{ Close() error }) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkMapped compares, for the memory of a Go guest, an instance whose data
// segments are copied with one whose memory is mapped, and both with a reset.
func BenchmarkMapped(b *testing.B) {
	const pages = 38 // 2.4 MB
	e := newEngine(b)
	defer e.Close()
	file := imageFile(b, pages)
	call := func(b *testing.B, inst engines.Instance) {
		first, err := inst.Func("first")
		if err != nil {
			b.Fatal(err)
		}
		if err := first.Call(context.Background(), []uint64{0}); err != nil {
			b.Fatal(err)
		}
	}
	empty := new(asm.Module)
	empty.Memory("memory", pages, 1024)
	empty.Func("first", asm.Func(nil, asm.Types(i32)), asm.Code{}.I32Const(0).I32Load(0))
	for _, v := range []struct {
		name   string
		module *asm.Module
		opts   engines.CompileOptions
		mapped bool
	}{
		{"plain", memoryOf(pages), engines.CompileOptions{}, false},
		{"reserved", memoryOf(pages), engines.CompileOptions{MappedMemory: true}, false},
		{"mapped", empty, engines.CompileOptions{MappedMemory: true}, true},
	} {
		mod := mustCompile(b, e, v.module, v.opts)
		b.Run("instance="+v.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				inst := mustInstantiate(b, mod, engines.Imports{})
				if v.mapped {
					mustMap(b, inst, file, pages)
				}
				call(b, inst)
				mustClose(b, inst)
			}
		})
	}
	inst := mustInstantiate(b, mustCompile(b, e, empty, engines.CompileOptions{MappedMemory: true}), engines.Imports{})
	defer inst.Close()
	mustMap(b, inst, file, pages)
	for _, dirty := range []int{0, 1, 10, 100} { // of 608 pages of 4 KiB
		b.Run(fmt.Sprintf("reset/written=%d", dirty), func(b *testing.B) {
			b.ReportAllocs()
			mem := inst.Memory("memory")
			for b.Loop() {
				for p := range dirty {
					mem.Write(uint64(p)*4096*6, []byte{1})
				}
				if err := inst.(engines.MemoryMapper).ResetMemory("memory"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
