// Package meter holds the limits of a WebAssembly call in the module itself:
// it rewrites a binary before an engine compiles it. So every engine has the
// same deadline, the same fuel to the unit and the same bounds, whatever it has
// of its own.
//
// [Wrap] makes any engine a metered one. What a module then does for its
// [engines.CompileOptions]:
//
//   - Interruptible: at the entry of functions and the head of loops it looks
//     at a counter; when that is spent, it calls the host, which looks at the
//     context and grants the next slice or ends the call.
//   - Fuel: the same, with every straight line of instructions charged by
//     their number. block, else and end are free, and a turn of a loop costs one.
//   - In both, instructions that work on a length (memory.fill, table.copy, …)
//     cost by it and run in pieces: 8 bytes of memory or one table entry are a
//     unit. Growing costs 1,024 units a page, and one a table entry.
//   - CallDepth: functions on cycles of the call graph count how deep they are.
//   - Snapshots: its memory and the numbers in its globals are exported to the
//     host, which writes the active data segments too, or maps a file that has
//     them. Where code changes what the host cannot read (a table, a segment, a
//     global that holds a reference or a vector), it says so in a global of its
//     own: such an instance is neither captured nor restored.
//
// Memories and tables are always clamped, and a module beyond [Limits] or with
// an instruction that is not in the WebAssembly 2.0 core is refused: nothing
// passes that is not understood. Custom sections are dropped, but for the names
// of functions.
//
// The start function runs as a call of its own after instantiation, within the
// same limits. Counters live in globals of the instance; no state is shared
// between instances but the files of snapshots, which never change, and nothing
// is set from another goroutine.
package meter

import (
	"context"
	"maps"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/internal/binfmt"
	"forgeone.dev/forgeone/engines/internal/link"
)

// A slice is what is granted at a time, in units: enough that asking for it
// costs nothing beside what it lasts, and less towards the end of the time that
// is left, so that even a guest that makes each unit slow (by a page fault in
// every few) does not overrun its deadline by more than a fraction of a
// millisecond.
const (
	maxSlice = 1 << 16
	minSlice = 1 << 10
	slowUnit = 100 * time.Nanosecond
)

func slice(left time.Duration) int64 {
	return max(minSlice, min(maxSlice, int64(left/slowUnit)))
}

// Wrap returns an engine that compiles with inner what it has rewritten, and
// holds all of [engines.CompileOptions] itself. It owns inner, and has its name
// and version. The zero Limits stand for the defaults.
//
// Names that begin with "forgeone:meter" are its own: a module that imports or
// exports one does not compile. Fuel and CallDepth make a module interruptible
// too. Instances link if both count fuel or neither does.
func Wrap(inner engines.WasmEngine, limits Limits) engines.WasmEngine {
	e := &engine{WasmEngine: inner, limits: limits.withDefaults()}
	e.host = &engines.HostModule{Functions: []engines.HostFunction{{Name: importGrant, Type: grantType(), Call: e.grant}}}
	return e
}

type engine struct {
	engines.WasmEngine
	limits Limits
	host   *engines.HostModule // one for all instances: engines cache by its address

	lastID    atomic.Uint32
	instances sync.Map // of uint32 to *instance: those that count fuel
	mu        sync.Mutex
}

func (e *engine) Info() engines.Info {
	info := e.WasmEngine.Info()
	info.Interrupt, info.MemoryLimit, info.Metering, info.Snapshots = true, true, true, true
	info.MappedMemory = false // snapshots use it
	info.SafeCallDepth = 0    // it is held
	return info
}

func (e *engine) Compile(ctx context.Context, wasm []byte, opts engines.CompileOptions) (engines.Module, error) {
	if opts.MappedMemory {
		return nil, &engines.UnsupportedError{Engine: e.Info().Name, Feature: "MappedMemory", Reason: "engines/meter maps memory for CompileOptions.Snapshots; ask for those"}
	}
	out, iface, err := e.rewrite(ctx, wasm, opts)
	if err != nil {
		return nil, &engines.CompileError{Engine: e.Info().Name, Err: err}
	}
	c := &compiled{
		engine: e, fuel: int64(min(opts.Fuel, math.MaxInt64)), depth: e.callDepth(opts) > 0,
		metered: out.metered, hasStart: out.hasStart, iface: iface, exports: link.Exports(iface.Exports),
		layout: out.layout, mapped: opts.Snapshots && e.WasmEngine.Info().MappedMemory,
	}
	if c.layout != nil && len(c.layout.data) > 0 {
		if c.initial, err = newImage(c.layout.size, c.layout.data, c.mapped); err != nil {
			return nil, &engines.CompileError{Engine: e.Info().Name, Err: err}
		}
		c.layout.data = nil
	}
	// The limits are in the module: to the engine all modules are alike, and link.
	if c.Module, err = e.WasmEngine.Compile(ctx, out.wasm, engines.CompileOptions{MappedMemory: c.mapped}); err != nil {
		c.freeInitial()
		return nil, err
	}
	return c, nil
}

// callDepth is how deep calls may be nested; 0 leaves it to the inner engine.
func (e *engine) callDepth(opts engines.CompileOptions) uint32 {
	safe := e.WasmEngine.Info().SafeCallDepth
	if safe == 0 || opts.CallDepth == 0 {
		return max(safe, opts.CallDepth)
	}
	return min(safe, opts.CallDepth)
}

func (e *engine) rewrite(ctx context.Context, wasm []byte, opts engines.CompileOptions) (*rewritten, *binfmt.Interface, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if err := binfmt.Check(wasm); err != nil {
		return nil, nil, err
	}
	p := plan{
		Deadline:    opts.Interruptible || e.callDepth(opts) > 0,
		Fuel:        opts.Fuel > 0,
		CallDepth:   e.callDepth(opts),
		MemoryPages: maxPages,
		Capture:     opts.Snapshots,
	}
	if limit := opts.MemoryLimitPages; limit > 0 {
		p.MemoryPages = min(limit, maxPages)
	}
	out, err := rewrite(wasm, p, e.limits)
	if err != nil {
		return nil, nil, err
	}
	iface, err := binfmt.Decode(wasm)
	return out, iface, err
}

// grant is what a guest calls whose slice does not cover what it needs.
func (e *engine) grant(ctx context.Context, _ engines.Caller, stack []uint64) error {
	id, have, need := uint32(stack[0]), int64(stack[1]), int64(stack[2])
	granted, err := e.granted(ctx, id, have, need)
	if err != nil {
		// The counter may be in a local, which is lost now.
		if i := e.instance(id); i != nil {
			_ = i.counter.Set(uint64(have)) // the trap is what matters
		}
		return err
	}
	stack[0] = uint64(granted)
	return nil
}

// granted is what an instance may spend that has some left and needs more.
func (e *engine) granted(ctx context.Context, id uint32, have, need int64) (int64, error) {
	if need == depthSpent {
		return 0, &engines.Trap{Class: engines.TrapStackExhausted, Detail: "calls are nested beyond the module's CallDepth"}
	}
	left, err := timeLeft(ctx)
	if err != nil {
		return 0, err
	}
	if id == 0 { // no fuel is counted
		return max(slice(left), need), nil
	}
	a := e.account(ctx, id)
	if a == nil || a.left < need-have {
		return 0, &engines.Trap{Class: engines.TrapFuel}
	}
	give := min(a.left, max(slice(left), need-have))
	a.left -= give
	return have + give, nil
}

// instance is the one that counts fuel by that id, nil if there is none.
func (e *engine) instance(id uint32) *instance {
	if v, ok := e.instances.Load(id); ok {
		return v.(*instance)
	}
	return nil
}

// account is the one that the instance spends from: that of the call of it that
// is under way, or of a call of another instance that led to it, which then is
// its own until that ends.
func (e *engine) account(ctx context.Context, id uint32) *account {
	i := e.instance(id)
	if i == nil {
		return nil
	}
	if i.account == nil {
		a, ok := ctx.Value(accountKey{}).(*account)
		if !ok {
			return nil
		}
		a.holders = append(a.holders, i)
		i.account = a
	}
	return i.account
}

// account is the fuel of a call from outside.
type account struct {
	left    int64       // not granted
	holders []*instance // that have been granted some
}

// accountKey is the key of a linked call's account in its context.
type accountKey struct{}

// timeLeft is how long a call may take yet, or the trap of one whose context is
// done. A deadline counts even if the timer behind it has not run: it needs a
// thread, and guests may have them all.
func timeLeft(ctx context.Context) (time.Duration, error) {
	if err := interrupted(ctx); err != nil {
		return 0, err
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		return math.MaxInt64, nil
	}
	left := time.Until(deadline)
	if left <= 0 {
		return 0, &engines.Trap{Class: engines.TrapInterrupted, Cause: context.DeadlineExceeded}
	}
	return left, nil
}

// interrupted is the trap of a call whose context is done, else nil.
func interrupted(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return &engines.Trap{Class: engines.TrapInterrupted, Cause: err}
	}
	return nil
}

type compiled struct {
	engines.Module
	engine   *engine
	fuel     int64 // of a call, 0 if it is not counted
	depth    bool  // is counted
	metered  bool
	hasStart bool
	iface    *binfmt.Interface
	exports  map[string]engines.ExternType

	layout  *layout // nil without snapshots
	mapped  bool    // memory is mapped from files
	initial *image  // of the active data segments, nil if the engine has them
}

func (c *compiled) Imports() []engines.ImportType { return c.iface.Imports }
func (c *compiled) Exports() []engines.ExportType { return c.iface.Exports }

func (c *compiled) Instantiate(ctx context.Context, imports engines.Imports) (engines.Instance, error) {
	i, err := c.link(ctx, imports)
	if err != nil {
		return nil, err
	}
	if err = c.initialize(i.Instance); err == nil {
		err = i.begin(ctx)
	}
	if err != nil {
		_ = i.Close() // the first error is the one to know
		return nil, err
	}
	return i, nil
}

// Close implements [engines.Module].
func (c *compiled) Close() error {
	err := c.Module.Close()
	c.freeInitial()
	return err
}

func (c *compiled) freeInitial() {
	if c.initial != nil {
		c.initial.close()
	}
}

// link makes an instance that has run nothing, and whose active data segments
// are not written yet if that is the host's to do.
func (c *compiled) link(ctx context.Context, imports engines.Imports) (*instance, error) {
	if c.metered {
		if err := interrupted(ctx); err != nil {
			return nil, err
		}
	}
	i := &instance{compiled: c}
	given, err := c.give(i, imports)
	if err != nil {
		return nil, err
	}
	i.Instance, err = c.Module.Instantiate(ctx, given)
	return i, err
}

// give is what the inner module is linked to: the host function that grants
// slices, and the inner instances of those that lend to i.
func (c *compiled) give(i *instance, imports engines.Imports) (engines.Imports, error) {
	if c.metered {
		if imports.Host = maps.Clone(imports.Host); imports.Host == nil {
			imports.Host = make(map[string]*engines.HostModule, 1)
		}
		imports.Host[reserved] = c.engine.host
	}
	lenders := imports.Instances
	i.lenders = make(map[string]*instance, len(lenders))
	imports.Instances = make(map[string]engines.Instance, len(lenders))
	for name, lender := range lenders {
		imports.Instances[name] = lender
		l, ok := lender.(*instance)
		if !ok {
			continue // the inner engine says what it is not
		}
		if (l.compiled.fuel > 0) != (c.fuel > 0) {
			return imports, &engines.LinkError{Module: name, Reason: "one of the modules counts fuel and the other does not; compile both with CompileOptions.Fuel or both without"}
		}
		imports.Instances[name] = l.Instance
		i.lenders[name] = l
		i.linked.Store(true)
		l.linked.Store(true)
	}
	return imports, nil
}
