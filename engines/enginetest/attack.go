package enginetest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

// attacker is a module that goes on without end: as its function "run", or if
// it has none, as its start function.
type attacker struct {
	name   string
	module func() *asm.Module
}

const (
	allPages    = 65535 // of memory: what can be addressed, but for one
	manyEntries = 900_000
)

// attackers are the ways of not coming to an end: turns, calls, and single
// instructions that take long.
var attackers = []attacker{
	{"loop", running(1, forever(nil))},
	{"loop that begins with a loop", running(1, forever(asm.Code{}.Loop().End()))},
	{"calls in a tree", func() *asm.Module {
		m := new(asm.Module)
		m.Func("", toNothing, asm.Code{}.Op(asm.Nop))
		for i := range uint32(40) {
			m.Func("", toNothing, asm.Code{}.Call(i).Call(i))
		}
		m.Func("run", toNothing, asm.Code{}.Call(40))
		return m
	}},
	{"recursion in a tree", func() *asm.Module {
		m := new(asm.Module)
		again := asm.Code{}.LocalGet(0).I32Const(1).Op(asm.I32Sub).Call(0)
		m.Func("", asm.Func(asm.Types(i32), nil), append(append(asm.Code{}.LocalGet(0).Op(asm.I32Eqz).If().Op(asm.Return).End(), again...), again...))
		m.Func("run", toNothing, asm.Code{}.I32Const(40).Call(0))
		return m
	}},
	{"indirect calls", running(1, forever(asm.Code{}.I32Const(0).CallIndirect(0)))},
	{"memory.fill of 4 GiB", running(allPages, forever(memoryFill(asm.Code{}.I32Const(0).I32Const(7).I32Const(-65536))))},
	{"memory.copy of 4 GiB", running(allPages, forever(memoryCopy(asm.Code{}.I32Const(1).I32Const(0).I32Const(-65537))))},
	{"memory.fill, many", running(1, forever(memoryFill(asm.Code{}.I32Const(0).I32Const(7).I32Const(4096))))},
	{"memory.grow", running(1, forever(asm.Code{}.I32Const(0).MemoryGrow().Op(asm.Drop)))},
	{"first touch of pages", running(allPages, forever(asm.Code{}.
		GlobalGet(0).I32Const(1).I32Store(0).
		GlobalGet(0).I32Const(4096).Op(asm.I32Add).I32Const(0x3fffffff).Op(i32And).GlobalSet(0)))},
	{"table.fill", running(1, forever(tableFill(asm.Code{}.I32Const(0).RefNull(engines.FuncRef).I32Const(manyEntries))))},
	{"table.copy", running(1, forever(tableCopy(asm.Code{}.I32Const(1).I32Const(0).I32Const(manyEntries-1))))},
	{"table.grow", running(1, forever(tableGrow(asm.Code{}.RefNull(engines.FuncRef).I32Const(1000)).Op(asm.Drop)))},
	{"start function", func() *asm.Module {
		m := new(asm.Module)
		m.Start(m.Func("", toNothing, forever(nil)))
		return m
	}},
}

const i32And = 0x71

// Instructions on lengths, which asm does not name.
func memoryCopy(c asm.Code) asm.Code { return c.Op(0xfc, 10, 0, 0) }
func memoryFill(c asm.Code) asm.Code { return c.Op(0xfc, 11, 0) }
func tableCopy(c asm.Code) asm.Code  { return c.Op(0xfc, 14, 0, 0) }
func tableGrow(c asm.Code) asm.Code  { return c.Op(0xfc, 15, 0) }
func tableFill(c asm.Code) asm.Code  { return c.Op(0xfc, 17, 0) }

func forever(body asm.Code) asm.Code { return append(asm.Code{}.Loop(), body...).Br(0).End() }

// running is a module with a memory of some pages whose function "run" has that
// body.
func running(pages uint32, body asm.Code) func() *asm.Module {
	return func() *asm.Module {
		m := new(asm.Module)
		m.Memory("memory", pages)
		m.Table("table", manyEntries)
		m.Global("", mutI32, asm.Code{}.I32Const(0))
		m.Elem(0, m.Func("", toNothing, asm.Code{}.Op(asm.Nop)))
		m.Func("run", toNothing, body)
		return m
	}
}

// attack makes what attacks once. It returns the error that ended it.
func (a *attacker) attack(t testing.TB, e engines.WasmEngine, opts engines.CompileOptions) func(context.Context) error {
	// What can be captured is mapped; as a part of Go's heap, a large memory
	// would be cleared first.
	opts.Snapshots = e.Info().Snapshots
	mod := compile(t, e, a.module(), opts)
	if a.name == "start function" {
		return func(ctx context.Context) error {
			inst, err := mod.Instantiate(ctx, engines.Imports{})
			if err == nil {
				closeAll(t, inst)
			}
			return err
		}
	}
	run := fn(t, instantiate(t, mod, engines.Imports{}), "run")
	return func(ctx context.Context) error { return run.Call(ctx, nil) }
}

var attackCases = []testCase{
	{name: "attack/ends with its deadline", needs: "Metering", run: testAttackDeadline},
	{name: "attack/ends when it is cancelled", needs: "Metering", run: testAttackCancelled},
	{name: "attack/ends with its fuel", needs: "Metering", run: testAttackFuel},
	{name: "attack/a host call that waits", needs: "Interrupt", run: testAttackHostCall},
	{name: "attack/recursion without end", needs: "Metering", run: testAttackRecursion},
	{name: "attack/memory stays within its limit", needs: "Metering", run: testAttackMemory},
	{name: "attack/tables stay within bounds", needs: "Metering", run: testAttackTables},
}

func testAttackDeadline(t *testing.T, e engines.WasmEngine) {
	for _, a := range attackers {
		t.Run(a.name, func(t *testing.T) {
			attack := a.attack(t, e, interruptible)
			ctx, cancel := context.WithTimeout(bg(), soon)
			defer cancel()
			err := attack(ctx)
			wantTrap(t, err, engines.TrapInterrupted)
			wantIs(t, err, context.DeadlineExceeded)
		})
	}
}

func testAttackCancelled(t *testing.T, e engines.WasmEngine) {
	for _, a := range attackers {
		if !slices.Contains([]string{"loop", "memory.fill of 4 GiB", "start function"}, a.name) {
			continue // it differs from a deadline in how it is told
		}
		t.Run(a.name, func(t *testing.T) {
			attack := a.attack(t, e, interruptible)
			ctx, cancel := context.WithCancel(bg())
			defer cancel()
			defer time.AfterFunc(soon, cancel).Stop()
			err := attack(ctx)
			wantTrap(t, err, engines.TrapInterrupted)
			wantIs(t, err, context.Canceled)
		})
	}
}

func testAttackFuel(t *testing.T, e engines.WasmEngine) {
	for _, a := range attackers {
		t.Run(a.name, func(t *testing.T) {
			wantTrap(t, a.attack(t, e, engines.CompileOptions{Fuel: 100_000})(bg()), engines.TrapFuel)
		})
	}
}

// A host function waits as long as its context lets it; what the guest does
// after that has no time.
func testAttackHostCall(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	wait := m.ImportFunc("env", "wait", toNothing)
	m.Func("run", toNothing, asm.Code{}.Call(wait).Loop().Br(0).End())
	for name, result := range map[string]func(context.Context) error{
		"it fails":   context.Context.Err,
		"it returns": func(context.Context) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			inst := instantiate(t, compile(t, e, m, interruptible), env(engines.HostFunction{
				Name: "wait", Type: toNothing,
				Call: func(ctx context.Context, _ engines.Caller, _ []uint64) error {
					<-ctx.Done()
					return result(ctx)
				},
			}))
			ctx, cancel := context.WithTimeout(bg(), soon)
			defer cancel()
			wantIs(t, fn(t, inst, "run").Call(ctx, nil), context.DeadlineExceeded)
		})
	}
}

func testAttackRecursion(t *testing.T, e engines.WasmEngine) {
	m := new(asm.Module)
	m.Func("direct", toNothing, asm.Code{}.Call(0))
	m.Func("mutual", toNothing, asm.Code{}.Call(2))
	m.Func("", toNothing, asm.Code{}.Call(1))
	m.Table("", 1)
	m.Func("indirect", toNothing, asm.Code{}.I32Const(0).CallIndirect(0))
	m.Elem(0, 3)
	for _, opts := range []engines.CompileOptions{{CallDepth: 1000}, {CallDepth: 1000, Fuel: 1 << 40}} {
		inst := instantiate(t, compile(t, e, m, opts), engines.Imports{})
		for _, name := range []string{"direct", "mutual", "indirect"} {
			_, err := invoke(inst, name)
			wantTrap(t, err, engines.TrapStackExhausted)
		}
	}
}

// What grows without end has what it may have, and not a page more.
func testAttackMemory(t *testing.T, e engines.WasmEngine) {
	const limit = 40
	m := new(asm.Module)
	m.Memory("memory", 1)
	m.Func("run", toNothing, forever(asm.Code{}.I32Const(3).MemoryGrow().Op(asm.Drop).I32Const(1).MemoryGrow().Op(asm.Drop)))
	inst := instantiate(t, compile(t, e, m, engines.CompileOptions{Fuel: 1_000_000, MemoryLimitPages: limit}), engines.Imports{})
	_, err := invoke(inst, "run")
	wantTrap(t, err, engines.TrapFuel)
	if size := inst.Memory("memory").Size(); size != limit*engines.PageSize {
		t.Errorf("the memory has %d bytes, and it may have %d pages", size, limit)
	}
}

// A table is no way round the limit of the memory.
func testAttackTables(t *testing.T, e engines.WasmEngine) {
	const many = 100_000_000
	for _, max := range [][]uint32{nil, {many + 10}} {
		m := new(asm.Module)
		m.Table("table", 10, max...)
		m.Func("grow", i32ToI32, tableGrow(asm.Code{}.RefNull(engines.FuncRef).LocalGet(0)))
		inst := instantiate(t, compile(t, e, m, engines.CompileOptions{Fuel: 1 << 40}), engines.Imports{})
		want(t, inst, 1<<32-1, "grow", many)
		want(t, inst, 10, "grow", 1)
	}
	m := new(asm.Module)
	m.Table("table", many)
	_, err := e.Compile(bg(), m.Bytes(), engines.CompileOptions{})
	wantAs[*engines.CompileError](t, err)
}

// Overshoot measures how long attackers go on beyond their deadline: of each,
// the middle and the longest. newEngine makes a metered engine.
func Overshoot(b *testing.B, newEngine func(testing.TB) engines.WasmEngine) {
	for _, a := range attackers {
		b.Run(a.name, func(b *testing.B) {
			e := newEngine(b)
			b.Cleanup(func() { closeAll(b, e) })
			attack := a.attack(b, e, interruptible)
			var over []time.Duration
			for b.Loop() {
				deadline := time.Now().Add(soon)
				ctx, cancel := context.WithDeadline(bg(), deadline)
				err := attack(ctx)
				over = append(over, time.Since(deadline))
				cancel()
				if !errors.Is(err, context.DeadlineExceeded) {
					b.Fatal(err)
				}
			}
			slices.Sort(over)
			b.ReportMetric(milliseconds(over[len(over)/2]), "ms-over")
			b.ReportMetric(milliseconds(over[len(over)-1]), "max-ms-over")
			b.ReportMetric(0, "ns/op") // which is the time that it was given
		})
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
