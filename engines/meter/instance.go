package meter

import (
	"context"
	"errors"
	"sync/atomic"

	"forgeone.dev/forgeone/engines"
)

var (
	_ engines.WasmEngine = (*engine)(nil)
	_ engines.Module     = (*compiled)(nil)
	_ engines.Instance   = (*instance)(nil)
	_ engines.FuelMeter  = (*instance)(nil)
	_ engines.Func       = (*export)(nil)
)

type instance struct {
	engines.Instance
	compiled *compiled
	lenders  map[string]*instance // by import module
	heirs    []*instance          // closed, and known while i is open; guarded by engine.mu
	linked   atomic.Bool          // code of other instances may run in calls of this one
	closed   atomic.Bool

	id      uint32
	counter engines.Global // what is left of the slice; nil if no fuel is counted
	depth   engines.Global // nil if it is not counted
	account *account       // that the instance spends from, nil between calls
	own     account        // of calls from outside
	used    int64

	calls  int       // under way
	broken bool      // a call has not come to its end
	lent   bool      // the host has a global of it that cannot be captured
	state  *state    // nil unless a snapshot made it
	origin *snapshot // that made it
}

// begin sets up what the host knows of the guest's counters, and runs the start
// function.
func (i *instance) begin(ctx context.Context) error {
	if err := i.count(); err != nil || !i.compiled.hasStart {
		return err
	}
	start, err := i.Instance.Func(exportStart)
	if err != nil {
		return err
	}
	return i.call(ctx, start, nil)
}

// count sets up what the host knows of the guest's counters.
func (i *instance) count() error {
	c := i.compiled
	if !c.metered {
		return nil
	}
	if c.depth {
		i.depth = i.Instance.Global(exportDepth)
	}
	if c.fuel > 0 {
		i.counter = i.Instance.Global(exportCounter)
		i.id = c.engine.lastID.Add(1)
		c.engine.instances.Store(i.id, i)
		return i.Instance.Global(exportID).Set(uint64(i.id))
	}
	return nil
}

func (i *instance) Close() error {
	if i.closed.Swap(true) {
		return nil
	}
	i.compiled.engine.retire(i)
	return i.Instance.Close()
}

// retire forgets an instance that counts fuel and is closed, unless functions
// of it may be in a table that was lent to it: then that is called yet, and it
// is forgotten with the lender.
func (e *engine) retire(i *instance) {
	if i.id == 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	retired := []*instance{i}
	for len(retired) > 0 {
		i := retired[len(retired)-1]
		retired = retired[:len(retired)-1]
		if lender := i.tableLender(); lender != nil {
			lender.heirs = append(lender.heirs, i)
			continue
		}
		e.instances.Delete(i.id)
		retired = append(retired, i.heirs...)
		i.heirs = nil
	}
}

// tableLender is an open instance that lent i a table, nil if there is none.
func (i *instance) tableLender() *instance {
	for _, im := range i.compiled.iface.Imports {
		if im.Type.Kind != engines.KindTable {
			continue
		}
		if lender := i.lenders[im.Module]; lender != nil && !lender.closed.Load() {
			return lender
		}
	}
	return nil
}

func (i *instance) Func(name string) (engines.Func, error) {
	if _, ok := i.compiled.exports[name]; !ok && !i.closed.Load() {
		return nil, &engines.ExportError{Name: name, Reason: "the module exports nothing of that name"}
	}
	f, err := i.Instance.Func(name)
	if err != nil {
		return nil, err
	}
	return &export{Func: f, instance: i}, nil
}

func (i *instance) Memory(name string) engines.Memory {
	if _, ok := i.compiled.exports[name]; !ok {
		return nil
	}
	return i.Instance.Memory(name)
}

func (i *instance) Global(name string) engines.Global {
	t, ok := i.compiled.exports[name]
	if !ok {
		return nil
	}
	i.lent = i.lent || t.Global.Mutable && !numeric(t.Global.Value)
	return i.Instance.Global(name)
}

// FuelUsed implements [engines.FuelMeter].
func (i *instance) FuelUsed() uint64 { return uint64(i.used) }

type export struct {
	engines.Func
	instance *instance
}

func (f *export) Call(ctx context.Context, stack []uint64) error {
	i := f.instance
	if i.closed.Load() {
		return engines.ErrClosed
	}
	if i.compiled.metered {
		if err := interrupted(ctx); err != nil {
			return err
		}
	}
	return i.call(ctx, f.Func, stack)
}

// call calls a function of the inner instance. A call from outside opens the
// account and settles it; a call back is part of the one under way.
func (i *instance) call(ctx context.Context, f engines.Func, stack []uint64) error {
	i.calls++
	var err error
	if i.depth != nil {
		err = i.callDeep(ctx, f, stack)
	} else {
		err = i.spend(ctx, f, stack)
	}
	i.calls--
	i.broken = i.broken || err != nil
	return err
}

// callDeep sets the depth back to what it was when a call did not come to its end.
func (i *instance) callDeep(ctx context.Context, f engines.Func, stack []uint64) error {
	depth := i.depth.Get()
	err := i.spend(ctx, f, stack)
	if err != nil {
		_ = i.depth.Set(depth) // fails only if i is closed
		if depth == 0 {
			i.unwindLenders()
		}
	}
	return err
}

// unwindLenders sets the depth of those back that functions were called of.
func (i *instance) unwindLenders() {
	for _, l := range i.lenders {
		if l.depth != nil {
			_ = l.depth.Set(0)
		}
		l.unwindLenders()
	}
}

func (i *instance) spend(ctx context.Context, f engines.Func, stack []uint64) error {
	if i.counter == nil || i.account != nil {
		return ownTrap(f.Call(ctx, stack))
	}
	a := &i.own
	first := min(minSlice, i.compiled.fuel)
	a.left, a.holders = i.compiled.fuel-first, append(a.holders[:0], i)
	i.account = a
	if err := i.counter.Set(uint64(first)); err != nil {
		return err
	}
	if i.linked.Load() {
		ctx = context.WithValue(ctx, accountKey{}, a)
	}
	err := ownTrap(f.Call(ctx, stack))
	for _, holder := range a.holders {
		a.left += int64(holder.counter.Get())
		holder.account = nil
		if err := holder.counter.Set(0); err != nil && !errors.Is(err, engines.ErrClosed) {
			return err
		}
	}
	i.used = i.compiled.fuel - a.left
	if err == nil && a.left < 0 {
		// The last straight line was entered with less than it costs.
		err = &engines.Trap{Class: engines.TrapFuel}
	}
	return err
}

// ownTrap is the trap that the host function of this package ended a call with,
// else err.
func ownTrap(err error) error {
	if host, ok := errors.AsType[*engines.HostError](err); ok && host.Module == reserved {
		return host.Err
	}
	return err
}
