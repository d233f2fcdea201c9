package wazero

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"sync/atomic"

	"github.com/tetratelabs/wazero/api"

	"forgeone.dev/forgeone/engines"
)

var (
	_ engines.Instance = (*instance)(nil)
	_ engines.Func     = (*function)(nil)
	_ engines.Memory   = memory{}
	_ engines.Global   = global{}
	_ engines.Caller   = (*caller)(nil)
)

type instance struct {
	module *module
	mod    api.Module
	// imports keeps the host modules and lending instances from being collected.
	imports engines.Imports
	mapped  *mappedMemory // nil without MappedMemory
	closed  atomic.Bool
}

func newInstance(m *module, mod api.Module, imports engines.Imports, mapped *mappedMemory) *instance {
	m.rt.callers.add(mod)
	return &instance{module: m, mod: mod, imports: imports, mapped: mapped}
}

func (i *instance) Close() error {
	if i.closed.Swap(true) { // i.mod may be closed by an interruption
		return nil
	}
	i.module.rt.callers.remove(i.mod)
	return errors.Join(i.mod.Close(context.Background()), i.module.rt.leave(i.mapped))
}

func (i *instance) Func(name string) (engines.Func, error) {
	if i.mod.IsClosed() {
		return nil, engines.ErrClosed
	}
	t, ok := i.module.exports[name]
	if !ok {
		return nil, &engines.ExportError{Name: name, Reason: "the module exports nothing of that name"}
	}
	if t.Kind != engines.KindFunc {
		return nil, &engines.ExportError{Name: name, Reason: fmt.Sprintf("it is a %s, not a func", t.Kind)}
	}
	return &function{
		instance:      i,
		rt:            i.module.rt,
		name:          name,
		typ:           t.Func,
		slots:         t.Func.Slots(),
		narrow:        narrowWords(t.Func.Results),
		interruptible: i.module.rt.opts.Interruptible,
		upstream:      i.mod.ExportedFunction(name),
	}, nil
}

func (i *instance) Memory(name string) engines.Memory {
	if i.mod.IsClosed() {
		return nil
	}
	if mem := i.mod.ExportedMemory(name); mem != nil {
		return memory{i.mod, mem}
	}
	return nil
}

func (i *instance) Global(name string) engines.Global {
	if i.mod.IsClosed() {
		return nil
	}
	if g := i.mod.ExportedGlobal(name); g != nil {
		return global{g, i.module.exports[name].Global}
	}
	return nil
}

type function struct {
	instance      *instance
	rt            *runtime
	name          string
	typ           engines.FuncType
	slots         int
	narrow        []int // words of the stack that a call leaves a 32-bit result in
	upstream      api.Function
	interruptible bool
	busy          bool // a call of it is under way
}

func (f *function) Type() engines.FuncType { return f.typ }

func (f *function) Call(ctx context.Context, stack []uint64) error {
	if len(stack) < f.slots {
		return &engines.ArgumentError{Func: f.name, Want: f.slots, Got: len(stack)}
	}
	if f.instance.closed.Load() || f.rt.closed.Load() {
		return engines.ErrClosed
	}
	if f.interruptible {
		if f.instance.mod.IsClosed() {
			return engines.ErrClosed // an interruption closed it
		}
		if err := interrupted(ctx); err != nil {
			return err
		}
	}
	fn := f.upstream
	if f.busy {
		// A host function called back in: wazero's function holds the stack of
		// the call under way, so this one needs its own.
		fn = f.instance.mod.ExportedFunction(f.name)
	}
	outer := f.busy
	f.busy = true
	err := fn.CallWithStack(ctx, stack) // it recovers from panics
	f.busy = outer
	if err != nil {
		return callError(ctx, err)
	}
	for _, word := range f.narrow {
		stack[word] &= math.MaxUint32
	}
	return nil
}

// memory is a linear memory, dead once the instance it was asked of is closed.
type memory struct {
	mod api.Module
	api.Memory
}

// firstMemory is mod's memory, nil if it has none; wazero says so with an
// interface that holds a nil pointer.
func firstMemory(mod api.Module) engines.Memory {
	mem := mod.Memory()
	if mem == nil || reflect.ValueOf(mem).IsNil() {
		return nil
	}
	return memory{mod, mem}
}

func (m memory) Size() uint64 {
	if m.mod.IsClosed() {
		return 0
	}
	return uint64(m.Memory.Size())
}

func (m memory) Read(offset uint64, dst []byte) bool {
	view, ok := m.view(offset, len(dst))
	copy(dst, view)
	return ok
}

func (m memory) Write(offset uint64, src []byte) bool {
	view, ok := m.view(offset, len(src))
	copy(view, src)
	return ok
}

// view is the n bytes of memory at offset; false when they are not all there.
// It must not outlive the call: growing the memory moves it.
func (m memory) view(offset uint64, n int) ([]byte, bool) {
	if offset > math.MaxUint32 || uint64(n) > math.MaxUint32 || m.mod.IsClosed() {
		return nil, false
	}
	return m.Memory.Read(uint32(offset), uint32(n))
}

func (m memory) Grow(pages uint32) (uint32, bool) {
	if m.mod.IsClosed() {
		return 0, false
	}
	return m.Memory.Grow(pages)
}

type global struct {
	api.Global
	typ engines.GlobalType
}

func (g global) Type() engines.GlobalType { return g.typ }

func (g global) Set(v uint64) error {
	mutable, ok := g.Global.(api.MutableGlobal)
	if !ok {
		return errImmutable
	}
	mutable.Set(v)
	return nil
}
