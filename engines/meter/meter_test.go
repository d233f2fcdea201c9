package meter_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/engines/meter"
)

var toNothing = asm.Func(nil, nil)

// Bulk instructions, which asm does not name.
func memoryCopy(c asm.Code) asm.Code { return c.Op(0xfc, 10, 0, 0) }
func memoryFill(c asm.Code) asm.Code { return c.Op(0xfc, 11, 0) }
func tableFill(c asm.Code) asm.Code  { return c.Op(0xfc, 17, 0) }
func tableCopy(c asm.Code) asm.Code  { return c.Op(0xfc, 14, 0, 0) }
func tableGrow(c asm.Code) asm.Code  { return c.Op(0xfc, 15, 0) }

func wantTrap(t testing.TB, err error, class engines.TrapClass) {
	t.Helper()
	trap, ok := errors.AsType[*engines.Trap](err)
	if !ok || trap.Class != class {
		t.Fatalf("got %v, want the trap %q", err, class)
	}
}

// attackers are modules that never end, each in its own way: as "run", or as
// the start function.
func attackers() map[string]*asm.Module {
	forever := func(body asm.Code) asm.Code { return append(asm.Code{}.Loop(), body...).Br(0).End() }
	out := make(map[string]*asm.Module)
	add := func(name string, body asm.Code, locals ...engines.ValueType) *asm.Module {
		m := new(asm.Module)
		m.Memory("memory", 1)
		m.Table("table", 900_000)
		m.Func("run", toNothing, body, locals...)
		out[name] = m
		return m
	}
	add("loop", forever(nil))
	add("loop that begins with a loop", forever(asm.Code{}.Loop().End()))
	// f calls itself twice, and returns when it is 40 deep.
	tree := asm.Func(asm.Types(i32), nil)
	m := new(asm.Module)
	m.Func("", tree, asm.Code{}.LocalGet(0).Op(asm.I32Eqz).If().Op(asm.Return).End().
		LocalGet(0).I32Const(1).Op(asm.I32Sub).Call(0).LocalGet(0).I32Const(1).Op(asm.I32Sub).Call(0))
	m.Func("run", toNothing, asm.Code{}.I32Const(40).Call(0))
	out["recursion"] = m
	// The same without a cycle in the call graph.
	m = new(asm.Module)
	m.Func("", toNothing, asm.Code{}.Op(asm.Nop))
	for i := range uint32(40) {
		m.Func("", toNothing, asm.Code{}.Call(i).Call(i))
	}
	m.Func("run", toNothing, asm.Code{}.Call(40))
	out["call tree"] = m
	m = new(asm.Module)
	m.Memory("memory", 65535)
	m.Func("run", toNothing, forever(memoryFill(asm.Code{}.I32Const(0).I32Const(7).I32Const(-65536))))
	out["memory.fill of 4 GiB"] = m
	m = new(asm.Module)
	m.Memory("memory", 16384)
	m.Func("run", toNothing, forever(memoryCopy(asm.Code{}.I32Const(1).I32Const(0).I32Const(1<<30-1))))
	out["memory.copy of 1 GiB"] = m
	add("small fills", forever(memoryFill(asm.Code{}.I32Const(0).I32Const(7).I32Const(4096))))
	add("table.fill", forever(tableFill(asm.Code{}.I32Const(0).RefNull(engines.FuncRef).I32Const(900_000))))
	add("table.copy", forever(tableCopy(asm.Code{}.I32Const(1).I32Const(0).I32Const(899_999))))
	add("table.grow", forever(tableGrow(asm.Code{}.RefNull(engines.FuncRef).I32Const(1000)).Op(asm.Drop)))
	add("memory.grow", forever(asm.Code{}.I32Const(1).MemoryGrow().Op(asm.Drop)))
	m = new(asm.Module)
	m.Memory("memory", 16384)
	m.Func("run", toNothing, forever(asm.Code{}.
		LocalGet(0).I32Const(1).I32Store(0).LocalGet(0).I32Const(4096).Op(asm.I32Add).I32Const(0x3fffffff).Op(0x71).LocalSet(0)), i32)
	out["first touch of pages"] = m
	m = new(asm.Module)
	m.Start(m.Func("", toNothing, forever(nil)))
	out["start function"] = m
	return out
}

func TestAttackers(t *testing.T) { testAttackers(t, metered) }

// testAttackers runs each attacker until its deadline, or its fuel, stops it.
func testAttackers(t *testing.T, newEngine func(testing.TB) engines.WasmEngine) {
	for name, m := range attackers() {
		for limit, opts := range map[string]engines.CompileOptions{
			"deadline": {Interruptible: true, MemoryLimitPages: 65535},
			"fuel":     {Fuel: 1_000_000},
		} {
			t.Run(name+"/"+limit, func(t *testing.T) {
				e := newEngine(t)
				defer e.Close()
				mod, err := e.Compile(t.Context(), m.Bytes(), opts)
				if err != nil {
					t.Fatal(err)
				}
				attack := func(ctx context.Context) error {
					_, err := mod.Instantiate(ctx, engines.Imports{})
					return err
				}
				if name != "start function" {
					inst, err := mod.Instantiate(t.Context(), engines.Imports{})
					if err != nil {
						t.Fatal(err)
					}
					run := function(t, inst, "run")
					attack = func(ctx context.Context) error { return run.Call(ctx, nil) }
				}
				if limit == "fuel" {
					wantTrap(t, attack(t.Context()), engines.TrapFuel)
					return
				}
				const budget = 20 * time.Millisecond
				begin := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), budget)
				defer cancel()
				err = attack(ctx)
				over := time.Since(begin) - budget
				wantTrap(t, err, engines.TrapInterrupted)
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v does not wrap the context's error", err)
				}
				t.Logf("%s: stopped %v after its deadline", name, over.Round(10*time.Microsecond))
			})
		}
	}
}

// A call succeeds if and only if it may spend what it spends, whatever the
// slices that it is granted.
func TestFuelIsExact(t *testing.T) {
	for _, c := range []struct {
		name string
		n    uint64
	}{{"tight", 1}, {"tight", 100_000}, {"bytesum", 50_001}, {"fib", 15}, {"nested", 3000}, {"sieve", 9000}, {"memory4", 4096}, {"copies", 3000}, {"leafcalls", 777}, {"calls", 777}} {
		t.Run(fmt.Sprint(c.name, c.n), func(t *testing.T) {
			run := func(fuel uint64) (uint64, uint64, error) {
				inst := instance(t, metered(t), programs(), engines.CompileOptions{Fuel: fuel})
				stack := []uint64{c.n}
				err := function(t, inst, c.name).Call(t.Context(), stack)
				return stack[0], inst.(engines.FuelMeter).FuelUsed(), err
			}
			stack := []uint64{c.n}
			if err := function(t, instance(t, bare(t), programs(), engines.CompileOptions{}), c.name).Call(t.Context(), stack); err != nil {
				t.Fatal(err)
			}
			result, used, err := run(math.MaxUint64)
			if err != nil || used == 0 || result != stack[0] {
				t.Fatalf("unlimited: %d (want %d), %d units, %v", result, stack[0], used, err)
			}
			if _, again, err := run(used); err != nil || again != used {
				t.Errorf("with %d units: %d used, %v", used, again, err)
			}
			_, spent, err := run(used - 1)
			wantTrap(t, err, engines.TrapFuel)
			if spent > used {
				t.Errorf("with %d units, %d are used", used-1, spent)
			}
			_, _, err = run(1)
			wantTrap(t, err, engines.TrapFuel)
		})
	}
}

// Bulk instructions do what they do unmetered, whatever the lengths and however
// the places overlap, and cost by their length.
func TestBulkIsTheSame(t *testing.T) {
	m := new(asm.Module)
	m.Memory("memory", 8)
	ops := asm.Func(asm.Types(i32, i32, i32), nil)
	args := func() asm.Code { return asm.Code{}.LocalGet(0).LocalGet(1).LocalGet(2) }
	m.Func("fill", ops, memoryFill(args()))
	m.Func("copy", ops, memoryCopy(args()))
	want := instance(t, bare(t), m.Bytes(), engines.CompileOptions{})
	deadline := instance(t, metered(t), m.Bytes(), engines.CompileOptions{Interruptible: true})
	fuel := instance(t, metered(t), m.Bytes(), engines.CompileOptions{Fuel: math.MaxInt64})
	place := rapid.OneOf(rapid.Uint32Range(0, 8*engines.PageSize+10), rapid.Uint32Range(0, 300), rapid.Uint32())
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom([]string{"fill", "copy"}).Draw(t, "op")
		stack := []uint64{uint64(place.Draw(t, "to")), uint64(place.Draw(t, "from")), uint64(place.Draw(t, "n"))}
		image := func(inst engines.Instance) (string, string) {
			f, err := inst.Func(name)
			if err != nil {
				t.Fatal(err)
			}
			err = f.Call(context.Background(), slices.Clone(stack))
			b := make([]byte, 8*engines.PageSize)
			inst.Memory("memory").Read(0, b)
			return string(b), fmt.Sprint(err)
		}
		// A pattern first, so that what is copied shows.
		for _, inst := range []engines.Instance{want, deadline, fuel} {
			for i := range uint64(8) {
				inst.Memory("memory").Write(i*engines.PageSize+stack[1]%977, []byte{byte(i + 1), byte(stack[0])})
			}
		}
		wantBytes, wantErr := image(want)
		for _, inst := range []engines.Instance{deadline, fuel} {
			if got, err := image(inst); got != wantBytes || err != wantErr {
				t.Fatalf("%s%d: error %s, want %s; memory equal: %v", name, stack, err, wantErr, got == wantBytes)
			}
		}
		if n := stack[2]; wantErr == "<nil>" {
			if used := fuel.(engines.FuelMeter).FuelUsed(); used < n/8 || used > n/8+10 {
				t.Fatalf("%s of %d bytes costs %d", name, n, used)
			}
		}
	})
}

// What a lent function spends, a call back, and a function in a lent table are
// all part of the call.
func TestFuelOfLinkedInstances(t *testing.T) {
	e := metered(t)
	defer e.Close()
	opts := engines.CompileOptions{Fuel: 2_000_000}
	count := func(n int32) asm.Code {
		return asm.Code{}.I32Const(n).LocalSet(0).Loop().LocalGet(0).I32Const(1).Op(asm.I32Sub).Op(0x22, 0).BrIf(0).End()
	}
	lib := new(asm.Module)
	lib.Func("spin", toNothing, count(100_000), i32)
	lender := load(t, e, lib, opts, engines.Imports{})

	m := new(asm.Module)
	lent, back := m.ImportFunc("lib", "spin", toNothing), m.ImportFunc("env", "back", toNothing)
	m.Func("own", toNothing, count(10), i32)
	m.Func("lent", toNothing, asm.Code{}.Call(lent))
	m.Func("twice", toNothing, asm.Code{}.Call(lent).Call(lent))
	m.Func("back", toNothing, asm.Code{}.Call(back))
	m.Func("endless", toNothing, asm.Code{}.Loop().Call(back).Br(0).End())
	var inst engines.Instance
	host := &engines.HostModule{Functions: []engines.HostFunction{{Name: "back", Type: toNothing,
		Call: func(_ context.Context, _ engines.Caller, _ []uint64) error {
			return function(t, inst, "own").Call(context.Background(), nil) // not even with the context
		}}}}
	inst = load(t, e, m, opts, engines.Imports{
		Host:      map[string]*engines.HostModule{"env": host},
		Instances: map[string]engines.Instance{"lib": lender},
	})
	used := func(inst engines.Instance, name string) uint64 {
		if err := function(t, inst, name).Call(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		return inst.(engines.FuelMeter).FuelUsed()
	}
	direct := used(lender, "spin")
	if one := used(inst, "lent"); one != direct+1 {
		t.Errorf("a lent call costs %d, want %d and the call", one, direct)
	}
	if two := used(inst, "twice"); two != 2*direct+2 {
		t.Errorf("two lent calls cost %d, want %d and the calls", two, 2*direct)
	}
	if got, own := used(inst, "back"), used(inst, "own"); got != own+1 {
		t.Errorf("a call back costs %d, want %d and the call", got, own)
	}
	again := new(asm.Module) // has no code of its own
	again.Export("spin", engines.KindFunc, again.ImportFunc("lib", "spin", toNothing))
	if got := used(load(t, e, again, opts, engines.Imports{Instances: map[string]engines.Instance{"lib": lender}}), "spin"); got != direct {
		t.Errorf("a function that is exported again costs %d, want %d", got, direct)
	}
	err := function(t, inst, "endless").Call(t.Context(), nil)
	wantTrap(t, err, engines.TrapFuel)
	if again := used(lender, "spin"); again != direct {
		t.Errorf("afterwards the lender's own call costs %d, want %d", again, direct)
	}

	unmetered, err := e.Compile(t.Context(), m.Bytes(), engines.CompileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = unmetered.Instantiate(t.Context(), engines.Imports{
		Host: map[string]*engines.HostModule{"env": host}, Instances: map[string]engines.Instance{"lib": lender},
	})
	if _, ok := errors.AsType[*engines.LinkError](err); !ok {
		t.Errorf("linking what counts fuel with what does not: %v, want a LinkError", err)
	}
}

// Depth is counted where functions can call themselves, directly or not, and
// goes back to nothing after a trap.
func TestCallDepth(t *testing.T) {
	m := new(asm.Module)
	i32Void := asm.Func(asm.Types(i32), nil)
	dec := func() asm.Code { return asm.Code{}.LocalGet(0).If().LocalGet(0).I32Const(1).Op(asm.I32Sub) }
	m.Func("direct", i32Void, dec().Call(0).End())
	m.Func("mutual", i32Void, dec().Call(2).End())
	m.Func("", i32Void, asm.Code{}.LocalGet(0).Call(1))
	m.Table("", 4)
	m.Func("indirect", i32Void, dec().I32Const(0).CallIndirect(m.Type(i32Void)).End())
	m.Elem(0, 3)
	inst := instance(t, metered(t), m.Bytes(), engines.CompileOptions{CallDepth: 100})
	for name, deepest := range map[string]uint64{"direct": 99, "mutual": 49, "indirect": 99} {
		f := function(t, inst, name)
		for range 3 {
			if err := f.Call(t.Context(), []uint64{deepest}); err != nil {
				t.Errorf("%s(%d): %v", name, deepest, err)
			}
			wantTrap(t, f.Call(t.Context(), []uint64{deepest + 1}), engines.TrapStackExhausted)
		}
	}
}

// A trap in a lent function leaves nothing of its depth behind.
func TestCallDepthOfLender(t *testing.T) {
	e := metered(t)
	defer e.Close()
	opts := engines.CompileOptions{CallDepth: 100}
	lib := new(asm.Module)
	lib.Func("f", asm.Func(asm.Types(i32), nil), asm.Code{}.LocalGet(0).If().LocalGet(0).I32Const(1).Op(asm.I32Sub).Call(0).End())
	lender := load(t, e, lib, opts, engines.Imports{})
	m := new(asm.Module)
	m.Export("f", engines.KindFunc, m.ImportFunc("lib", "f", asm.Func(asm.Types(i32), nil)))
	m.Func("g", asm.Func(asm.Types(i32), nil), asm.Code{}.LocalGet(0).Call(0))
	f := function(t, load(t, e, m, opts, engines.Imports{Instances: map[string]engines.Instance{"lib": lender}}), "g")
	for range 3 {
		wantTrap(t, f.Call(t.Context(), []uint64{100}), engines.TrapStackExhausted)
		if err := f.Call(t.Context(), []uint64{99}); err != nil {
			t.Fatal(err)
		}
	}
}

func load(t testing.TB, e engines.WasmEngine, m *asm.Module, opts engines.CompileOptions, imports engines.Imports) engines.Instance {
	t.Helper()
	mod, err := e.Compile(t.Context(), m.Bytes(), opts)
	if err != nil {
		t.Fatal(err)
	}
	inst, err := mod.Instantiate(t.Context(), imports)
	if err != nil {
		t.Fatal(err)
	}
	return inst
}

func TestRefused(t *testing.T) {
	code := func(c asm.Code) func(*asm.Module) {
		return func(m *asm.Module) { m.Memory("", 1); m.Table("", 1); m.Func("f", toNothing, c) }
	}
	limits := meter.Limits{ModuleBytes: 600, OutputBytes: 5000, Types: 3, Imports: 3, Exports: 3, Functions: 6, FunctionBytes: 200, Locals: 20, Values: 4, Nesting: 10, Globals: 3, Tables: 2, TableEntries: 100, Segments: 2}
	many := func(n int, f func(*asm.Module, int)) func(*asm.Module) {
		return func(m *asm.Module) {
			for i := range n {
				f(m, i)
			}
		}
	}
	for name, c := range map[string]struct {
		build func(*asm.Module)
		want  string
	}{
		"tail call":         {code(asm.Code{}.Op(0x12, 0)), "tail calls"},
		"exception":         {code(asm.Code{}.Op(0x08, 0)), "exception handling"},
		"atomic":            {code(asm.Code{}.Op(0xfe, 3)), "threads"},
		"garbage collected": {code(asm.Code{}.Op(0xfb, 0)), "garbage collection"},
		"relaxed SIMD":      {code(asm.Code{}.Op(0xfd, 0x80, 0x02)), "relaxed SIMD"},
		"unknown":           {code(asm.Code{}.Op(0xff)), "0xff"},
		"unknown misc":      {code(asm.Code{}.Op(0xfc, 99)), "0xfc 99"},
		"second memory":     {func(m *asm.Module) { m.Memory("", 1); m.Memory("", 1) }, "2 memories"},
		// What is added must not be in reach.
		"global of the meter":   {code(asm.Code{}.GlobalGet(0).Op(asm.Drop)), "global 0"},
		"function of the meter": {code(asm.Code{}.Call(1)), "function 1"},
		"local of the meter":    {code(asm.Code{}.Loop().LocalGet(0).Op(asm.Drop).End()), "local variable 0"},
		"label of the meter":    {code(asm.Code{}.Loop().Br(2).End()), "branch 2"},
		"type of the meter":     {code(asm.Code{}.I32Const(0).CallIndirect(1)), "type 1"},
		"reserved import":       {func(m *asm.Module) { m.ImportFunc("forgeone:meter", "grant", toNothing) }, "reserved"},
		"reserved lent import":  {func(m *asm.Module) { m.ImportGlobal("lib", "forgeone:meter/counter", engines.GlobalType{}) }, "reserved"},
		"reserved export":       {func(m *asm.Module) { m.Memory("forgeone:meter/x", 1) }, "reserved"},
		"undeclared reference": {func(m *asm.Module) {
			m.Start(m.Func("", toNothing, asm.Code{}.RefFunc(0).Op(asm.Drop)))
		}, "reference"},

		"bytes":     {func(m *asm.Module) { m.Memory("", 1); m.Data(0, strings.Repeat("x", 700)) }, "bytes, above the limit of 600"},
		"types":     {many(4, func(m *asm.Module, i int) { m.Type(asm.Func(make([]engines.ValueType, i), nil)) }), "4 types"},
		"imports":   {many(4, func(m *asm.Module, _ int) { m.ImportMemory("a", "b", 1) }), "4 imports"},
		"exports":   {many(4, func(m *asm.Module, i int) { m.Func(fmt.Sprint(i), toNothing, nil) }), "4 exports"},
		"functions": {many(7, func(m *asm.Module, _ int) { m.Func("", toNothing, nil) }), "7 functions"},
		"function":  {func(m *asm.Module) { m.Func("", toNothing, slices.Repeat(asm.Code{}.Op(asm.Nop), 300)) }, "bytes in a function"},
		"locals":    {func(m *asm.Module) { m.Func("", toNothing, nil, slices.Repeat(asm.Types(i32), 21)...) }, "21 local variables"},
		"values":    {func(m *asm.Module) { m.Type(asm.Func(make([]engines.ValueType, 5), nil)) }, "5 parameters or results"},
		"nesting":   {func(m *asm.Module) { m.Func("", toNothing, slices.Repeat(asm.Code{}.Block(), 11)) }, "11 nested blocks"},
		"globals": {many(4, func(m *asm.Module, _ int) {
			m.Global("", engines.GlobalType{Value: i32}, asm.Code{}.I32Const(0))
		}), "4 globals"},
		"a function that grows": {func(m *asm.Module) {
			m.Func("", toNothing, slices.Repeat(asm.Code{}.Loop().End(), 60))
		}, "bytes of a function after rewriting"},
		"tables":        {many(3, func(m *asm.Module, _ int) { m.Table("", 1) }), "3 tables"},
		"table entries": {many(2, func(m *asm.Module, _ int) { m.Table("", 51) }), "102 table entries"},
		"segments":      {func(m *asm.Module) { m.Memory("", 1); many(3, func(m *asm.Module, _ int) { m.Data(0, "") })(m) }, "3 data segments"},
	} {
		t.Run(name, func(t *testing.T) {
			e := meter.Wrap(bare(t), limits)
			defer e.Close()
			m := new(asm.Module)
			c.build(m)
			_, err := e.Compile(t.Context(), m.Bytes(), engines.CompileOptions{Interruptible: true})
			if _, ok := errors.AsType[*engines.CompileError](err); !ok || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want a CompileError that says %q", err, c.want)
			}
		})
	}
}

// Tables grow to what is left of the limit, divided between them.
func TestTablesAreClamped(t *testing.T) {
	m := new(asm.Module)
	m.Table("", 10)
	m.Table("", 20, 20)
	m.Table("", 0)
	m.Func("grow", i32ToI32, tableGrow(asm.Code{}.RefNull(engines.FuncRef).LocalGet(0)))
	inst := instance(t, meter.Wrap(bare(t), meter.Limits{TableEntries: 130}), m.Bytes(), engines.CompileOptions{Fuel: 1 << 40})
	grow := func(n uint64) uint64 {
		stack := []uint64{n}
		if err := function(t, inst, "grow").Call(t.Context(), stack); err != nil {
			t.Fatal(err)
		}
		return stack[0]
	}
	if got := grow(51); got != math.MaxUint32 {
		t.Errorf("a table of 10 grew to 61 of 60: %d", got)
	}
	if got := grow(50); got != 10 {
		t.Errorf("a table of 10 did not grow to 60: %d", got)
	}
	if used := inst.(engines.FuelMeter).FuelUsed(); used < 50 {
		t.Errorf("growing by 50 entries costs %d", used)
	}
}

// Names of functions stay with them, for stack traces.
func TestNamesFollow(t *testing.T) {
	m := new(asm.Module)
	m.Func("f", toNothing, asm.Code{}.Op(asm.Unreachable))
	names := "\x00\x10\x04name\x01\x09\x01\x00\x06victim" // custom section: function 0 is "victim"
	inst := instance(t, metered(t), append(m.Bytes(), names...), engines.CompileOptions{Interruptible: true})
	err := function(t, inst, "f").Call(t.Context(), nil)
	trap, ok := errors.AsType[*engines.Trap](err)
	if !ok || !strings.Contains(trap.Detail, "victim") {
		t.Errorf("the trap %v does not name the function: %+v", err, trap)
	}
}

// A call allocates nothing that the engine does not.
func TestCallAllocatesNothing(t *testing.T) {
	for name, opts := range map[string]engines.CompileOptions{
		"deadline": {Interruptible: true}, "fuel": {Fuel: 1 << 20}, "depth": {CallDepth: 10},
	} {
		f := function(t, instance(t, metered(t), programs(), opts), "tight")
		stack := make([]uint64, 1)
		if n := testing.AllocsPerRun(100, func() {
			stack[0] = 10
			if err := f.Call(context.Background(), stack); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations a call", name, n)
		}
	}
}
