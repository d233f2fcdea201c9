// Package enginetest is the conformance suite of the contract in package
// engines. An adapter needs one test:
//
//	func TestConformance(t *testing.T) {
//		enginetest.Test(t, func(t testing.TB) engines.WasmEngine { … })
//	}
//
// Its modules are written with package asm, so that a failing case can be read
// beside what it runs.
package enginetest

import (
	"context"
	"errors"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

// testCase is one promise of the contract.
type testCase struct {
	name string
	// needs names the feature that the case is about, "" for the contract's core.
	needs string
	// refusal marks a case about how an engine without that feature refuses it;
	// with the feature there is nothing to refuse, and nothing to skip.
	refusal bool
	run     func(*testing.T, engines.WasmEngine)
}

// has reports whether f has the feature that a case names.
func has(f engines.Features, name string) bool {
	return map[string]bool{
		"":             true,
		"Interrupt":    f.Interrupt,
		"MemoryLimit":  f.MemoryLimit,
		"Metering":     f.Metering,
		"V128Values":   f.V128Values,
		"RefValues":    f.RefValues,
		"MappedMemory": f.MappedMemory,
		"Snapshots":    f.Snapshots,
	}[name]
}

// Test runs the suite. newEngine makes a new engine for each case and fails the
// test if it cannot; the suite closes it. A case is skipped only when the
// engine's Features lack what it is about.
func Test(t *testing.T, newEngine func(testing.TB) engines.WasmEngine) {
	probe := newEngine(t)
	info := probe.Info()
	closeAll(t, probe)
	if info.Name == "" || info.Version == "" {
		t.Errorf("Info() = %+v: an engine must have a name and a version", info)
	}

	cases, skipped := 0, 0
	for _, group := range [][]testCase{
		valueCases, trapCases, hostCases, memoryCases, moduleCases, linkCases, lifecycleCases, malformedCases, hostileCases, limitCases, attackCases, meteringCases, mappedCases, snapshotCases,
	} {
		for _, c := range group {
			able := has(info.Features, c.needs)
			if able && c.refusal {
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				if !able && !c.refusal {
					skipped++
					t.Skipf("engine %s: Features.%s is false", info.Name, c.needs)
				}
				cases++
				e := newEngine(t)
				t.Cleanup(func() { closeAll(t, e) })
				c.run(t, e)
			})
		}
	}
	t.Logf("enginetest: engine=%s version=%s cases=%d skipped=%d", info.Name, info.Version, cases, skipped)
	if cases == 0 {
		t.Error("no case of the conformance suite ran")
	}
}

type closer interface{ Close() error }

func closeAll(t testing.TB, cs ...closer) {
	t.Helper()
	for _, c := range cs {
		if err := c.Close(); err != nil {
			t.Errorf("%T.Close() = %v", c, err)
		}
	}
}

var bg = context.Background

func compile(t testing.TB, e engines.WasmEngine, m *asm.Module, opts ...engines.CompileOptions) engines.Module {
	t.Helper()
	var o engines.CompileOptions
	if len(opts) > 0 {
		o = opts[0]
	}
	mod, err := e.Compile(bg(), m.Bytes(), o)
	if err != nil {
		t.Fatalf("Compile: %v", err)
	}
	t.Cleanup(func() { closeAll(t, mod) })
	return mod
}

func instantiate(t testing.TB, mod engines.Module, imports engines.Imports) engines.Instance {
	t.Helper()
	inst, err := mod.Instantiate(bg(), imports)
	if err != nil {
		t.Fatalf("Instantiate: %v", err)
	}
	t.Cleanup(func() { closeAll(t, inst) })
	return inst
}

// load compiles and instantiates in one step.
func load(t testing.TB, e engines.WasmEngine, m *asm.Module, imports ...engines.Imports) engines.Instance {
	t.Helper()
	var im engines.Imports
	if len(imports) > 0 {
		im = imports[0]
	}
	return instantiate(t, compile(t, e, m), im)
}

func fn(t testing.TB, inst engines.Instance, name string) engines.Func {
	t.Helper()
	f, err := inst.Func(name)
	if err != nil {
		t.Fatalf("Func(%q): %v", name, err)
	}
	return f
}

// invoke calls an export and returns its results.
func invoke(inst engines.Instance, name string, params ...uint64) ([]uint64, error) {
	f, err := inst.Func(name)
	if err != nil {
		return nil, err
	}
	stack := make([]uint64, f.Type().Slots())
	copy(stack, params)
	err = f.Call(bg(), stack)
	return stack, err
}

// want calls an export and fails the test unless it returns the one word want.
func want(t testing.TB, inst engines.Instance, want uint64, name string, params ...uint64) {
	t.Helper()
	got, err := invoke(inst, name, params...)
	if err != nil {
		t.Fatalf("%s(%d): %v", name, params, err)
	}
	if got[0] != want {
		t.Fatalf("%s(%d) = %#x, want %#x", name, params, got[0], want)
	}
}

// wantAs fails the test unless err is or wraps an E, which it returns.
func wantAs[E error](t testing.TB, err error) E {
	t.Helper()
	e, ok := errors.AsType[E](err)
	if !ok {
		t.Fatalf("got error %v (%T), want a %T", err, err, e)
	}
	return e
}

func wantTrap(t testing.TB, err error, class engines.TrapClass) *engines.Trap {
	t.Helper()
	trap := wantAs[*engines.Trap](t, err)
	if trap.Class != class {
		t.Fatalf("trap %q (%s), want %q", trap.Class, trap.Detail, class)
	}
	return trap
}

func wantIs(t testing.TB, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("got error %v, want %v", err, target)
	}
}

// Types the cases share.
var (
	i32, i64, f32, f64 = engines.I32, engines.I64, engines.F32, engines.F64

	toNothing = asm.Func(nil, nil)
	toI32     = asm.Func(nil, asm.Types(i32))
	i32ToI32  = asm.Func(asm.Types(i32), asm.Types(i32))
	binaryI32 = asm.Func(asm.Types(i32, i32), asm.Types(i32))
	mutI32    = engines.GlobalType{Value: i32, Mutable: true}
)

// env gives host functions under the module name "env".
func env(fns ...engines.HostFunction) engines.Imports {
	return engines.Imports{Host: map[string]*engines.HostModule{"env": {Functions: fns}}}
}

// lend gives an instance's exports under the module name "lib".
func lend(inst engines.Instance) engines.Imports {
	return engines.Imports{Instances: map[string]engines.Instance{"lib": inst}}
}
