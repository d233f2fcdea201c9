package wazero_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

// addressSpace is the size of what the process has mapped, in bytes.
func addressSpace(t *testing.T) int64 {
	t.Helper()
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var pages int64
	if _, err := fmt.Sscan(string(statm), &pages); err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// Whatever becomes of an instance, its addresses are given back: what is made
// here takes 64 MiB each time.
func TestMappedMemoryIsFreed(t *testing.T) {
	const times = 200
	e := newEngine(t)
	defer e.Close()
	file := imageFile(t, 4)
	opts := engines.CompileOptions{MappedMemory: true, Interruptible: true}
	mod := mustCompile(t, e, memoryOf(4), opts)
	spinning := new(asm.Module)
	spinning.ImportFunc("env", "cancel", asm.Func(nil, nil))
	spinning.Memory("memory", 4, 1024)
	spinning.Func("spin", asm.Func(nil, nil), asm.Code{}.Call(0).Loop().Br(0).End())
	spinner := mustCompile(t, e, spinning, opts)
	failing := memoryOf(4)
	failing.Start(failing.Func("", asm.Func(nil, nil), asm.Code{}.Op(asm.Unreachable)))
	trapping := memoryOf(4)
	trapping.Data(4*engines.PageSize-1, "beyond")
	table := memoryOf(4)
	table.Table("table", 1)
	lib := mustCompile(t, e, table, opts)
	importing := memoryOf(4)
	importing.ImportTable("lib", "table", 1)
	importer := mustCompile(t, e, importing, opts)

	for name, once := range map[string]func(t *testing.T){
		"closed": func(t *testing.T) {
			inst := mustInstantiate(t, mod, engines.Imports{})
			mustMap(t, inst, file, 4)
			mustClose(t, inst)
			mustClose(t, inst)
		},
		"interrupted": func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			host := engines.HostModule{Functions: []engines.HostFunction{{
				Name: "cancel", Call: func(context.Context, engines.Caller, []uint64) error { cancel(); return nil },
			}}}
			inst := mustInstantiate(t, spinner, engines.Imports{Host: map[string]*engines.HostModule{"env": &host}})
			mustMap(t, inst, file, 4)
			spin, err := inst.Func("spin")
			if err != nil {
				t.Fatal(err)
			}
			if err := spin.Call(ctx, nil); err == nil {
				t.Fatal("a loop without end has ended")
			}
			if err := inst.(engines.MemoryMapper).MapMemory("memory", file, 0); !errors.Is(err, engines.ErrClosed) {
				t.Fatalf("MapMemory of an interrupted instance = %v", err)
			}
			mustClose(t, inst)
		},
		"start function traps": notMade(mustCompile(t, e, failing, opts)),
		"data does not fit":    notMade(mustCompile(t, e, trapping, opts)),
		"linked": func(t *testing.T) {
			lender := mustInstantiate(t, lib, engines.Imports{})
			lent := engines.Imports{Instances: map[string]engines.Instance{"lib": lender}}
			a, b := mustInstantiate(t, importer, lent), mustInstantiate(t, importer, lent)
			mustMap(t, a, file, 4)
			mustClose(t, a)
			mustClose(t, b)
			mustClose(t, lender)
		},
		"left open when the engine is closed": func(t *testing.T) {
			e := newEngine(t)
			inst := mustInstantiate(t, mustCompile(t, e, memoryOf(4), opts), engines.Imports{})
			mustMap(t, inst, file, 4)
			mustClose(t, e)
			mustClose(t, inst)
		},
	} {
		t.Run(name, func(t *testing.T) {
			once(t)
			before := addressSpace(t)
			for range times {
				once(t)
			}
			if grown := addressSpace(t) - before; grown > times/4*64<<20 {
				t.Errorf("the address space has grown by %d MiB after %d instances", grown>>20, times)
			}
			maps, err := os.ReadFile("/proc/self/maps")
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(maps), file.Name()); n > 0 {
				t.Errorf("the file is still mapped %d times", n)
			}
		})
	}
}

// notMade is an instance that fails to be made.
func notMade(mod engines.Module) func(*testing.T) {
	return func(t *testing.T) {
		if inst, err := mod.Instantiate(t.Context(), engines.Imports{}); err == nil {
			mustClose(t, inst)
			t.Fatal("an instance that must fail was made")
		}
	}
}
