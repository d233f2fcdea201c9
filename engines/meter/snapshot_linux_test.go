package meter_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

// held counts the files and the mappings of files of snapshots that are there.
func held(t *testing.T) (files, mappings int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.Contains(to, "forgeone-memory") {
			files++
		}
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return files, strings.Count(string(maps), "forgeone-memory")
}

// Every way to the end closes the files and gives up the mappings.
func TestSnapshotsAreFreed(t *testing.T) {
	big := func(beyond bool) *asm.Module {
		m := counter()
		f := m.Func("fail", toNothing, asm.Code{}.Op(asm.Unreachable))
		if beyond {
			m.Start(f)
		}
		m.Data(100, strings.Repeat("x", 60_000))
		return m
	}
	e := metered(t)
	mod, err := e.Compile(t.Context(), big(false).Bytes(), engines.CompileOptions{Snapshots: true})
	if err != nil {
		t.Fatal(err)
	}
	if files, _ := held(t); files != 1 {
		t.Errorf("%d files are held for the data of a module, want 1", files)
	}
	inst, err := mod.Instantiate(t.Context(), engines.Imports{})
	if err != nil {
		t.Fatal(err)
	}
	snap, err := mod.(engines.Snapshotter).Snapshot(inst)
	if err != nil {
		t.Fatal(err)
	}
	again, err := snap.Instantiate(t.Context(), engines.Imports{})
	if err != nil {
		t.Fatal(err)
	}
	if files, mappings := held(t); files != 2 || mappings < 2 {
		t.Errorf("%d files and %d mappings are held, want 2 and at least 2", files, mappings)
	}
	if err := errors.Join(snap.Close(), snap.Close(), inst.Close(), again.Close(), mod.Close(), mod.Close()); err != nil {
		t.Error(err)
	}
	if files, mappings := held(t); files+mappings > 0 {
		t.Errorf("%d files and %d mappings are left", files, mappings)
	}

	// What fails on the way.
	broken, err := e.Compile(t.Context(), big(true).Bytes(), engines.CompileOptions{Snapshots: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := broken.Instantiate(t.Context(), engines.Imports{}); err == nil {
		t.Error("the start function did not trap")
	}
	if err := broken.Close(); err != nil {
		t.Error(err)
	}
	invalid := big(false)
	invalid.Func("", asm.Func(nil, asm.Types(i32)), nil) // returns nothing
	if _, err := e.Compile(t.Context(), invalid.Bytes(), engines.CompileOptions{Snapshots: true}); err == nil {
		t.Error("an invalid module is compiled")
	}
	if files, mappings := held(t); files+mappings > 0 {
		t.Errorf("%d files and %d mappings are left of what failed", files, mappings)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}
