//go:build wasmer

package wasmer

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/cgo"
	"sync/atomic"

	upstream "github.com/wasmerio/wasmer-go/wasmer"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/internal/mapping"
)

var (
	_ engines.Instance = (*instance)(nil)
	_ engines.Func     = (*function)(nil)
	_ engines.Memory   = (*memory)(nil)
	_ engines.Global   = (*global)(nil)
	_ engines.Caller   = caller{}
)

var errImmutable = errors.New("wasmer: the global is immutable")

type instance struct {
	module   *module
	upstream *upstream.Instance
	imports  engines.Imports // the lenders must stay
	host     *binding
	memory   *memory // memory 0, nil if there is none
	lends    atomic.Bool
	closed   atomic.Bool
	overlay  mapping.Overlay

	call   call       // the call of an export that is under way
	handle cgo.Handle // of the instance itself

	freed bool // guarded by engine.mu
	// dependents put functions of theirs into a table of this instance: freed
	// before it, they would leave dangling pointers there. Guarded by engine.mu.
	dependents []*instance
}

// importObject is what wasmer resolves the imports of i from.
func (i *instance) importObject() *upstream.ImportObject {
	object := upstream.NewImportObject()
	for n, im := range i.module.iface.Imports {
		var extern upstream.IntoExtern = i.host.funcs[n]
		if i.host.funcs[n] == nil {
			lender := i.imports.Instances[im.Module].(*instance)
			lender.lends.Store(true)
			// The check before found the export, and wasmer exports what is there.
			extern, _ = lender.upstream.Exports.Get(im.Name)
		}
		object.Register(im.Module, map[string]upstream.IntoExtern{im.Name: extern})
	}
	return object
}

// adopt makes the engine the owner of i, who frees it if nobody else does.
func (e *engine) adopt(i *instance) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.instances[i] = struct{}{}
}

// Close frees i, unless its functions are in the table of a lender: then that
// frees it.
func (i *instance) Close() error {
	if i.closed.Swap(true) {
		return nil
	}
	for _, dead := range i.module.engine.disown(i) {
		dead.free()
	}
	i.overlay.Close()
	return nil
}

// disown takes from the engine what can be freed once i is closed: i and its
// closed dependents, or nothing while i depends on a lender that is open.
func (e *engine) disown(i *instance) []*instance {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, im := range i.module.iface.Imports {
		if im.Type.Kind != engines.KindTable {
			continue
		}
		if lender := i.imports.Instances[im.Module].(*instance); !lender.freed {
			lender.dependents = append(lender.dependents, i)
			return nil
		}
	}
	return e.release(i)
}

// release takes i and its dependents from the engine; e.mu is held.
func (e *engine) release(i *instance) []*instance {
	if _, open := e.instances[i]; !open {
		return nil // the engine's Close frees it
	}
	delete(e.instances, i)
	i.freed = true
	dead := []*instance{i}
	for _, d := range i.dependents {
		dead = append(dead, e.release(d)...)
	}
	return dead
}

// free is called once, by whoever took i from the engine's instances.
func (i *instance) free() {
	i.handle.Delete()
	i.upstream.Close()
	i.module.idle.give(i.host)
}

func (i *instance) Func(name string) (engines.Func, error) {
	if i.closed.Load() {
		return nil, engines.ErrClosed
	}
	t, ok := i.module.exports[name]
	if !ok {
		return nil, &engines.ExportError{Name: name, Reason: "the module exports nothing of that name"}
	}
	if t.Kind != engines.KindFunc {
		return nil, &engines.ExportError{Name: name, Reason: fmt.Sprintf("it is a %s, not a func", t.Kind)}
	}
	return newFunction(i, name, t.Func)
}

// start runs the start function.
func (i *instance) start(ctx context.Context) error {
	f, err := newFunction(i, i.module.startExport, engines.FuncType{})
	if err != nil {
		return err
	}
	return f.Call(ctx, nil)
}

func (i *instance) Memory(name string) engines.Memory {
	if i.closed.Load() || i.module.exports[name].Kind != engines.KindMemory {
		return nil
	}
	mem, err := i.upstream.Exports.GetMemory(name)
	if err != nil {
		return nil
	}
	return &memory{i, mem}
}

func (i *instance) Global(name string) engines.Global {
	t := i.module.exports[name]
	if i.closed.Load() || t.Kind != engines.KindGlobal {
		return nil
	}
	g, err := i.upstream.Exports.GetGlobal(name)
	if err != nil {
		return nil
	}
	return &global{i, g, t.Global}
}

// memory is a linear memory, dead once the instance it was asked of is closed.
type memory struct {
	instance *instance
	upstream *upstream.Memory
}

func (m *memory) Size() uint64 {
	if m.instance.closed.Load() {
		return 0
	}
	defer runtime.KeepAlive(m)
	return uint64(m.upstream.DataSize())
}

func (m *memory) Read(offset uint64, dst []byte) bool {
	defer runtime.KeepAlive(m)
	view, ok := m.view(offset, len(dst))
	copy(dst, view)
	return ok
}

func (m *memory) Write(offset uint64, src []byte) bool {
	defer runtime.KeepAlive(m)
	view, ok := m.view(offset, len(src))
	copy(view, src)
	return ok
}

// view is the n bytes of memory at offset; false when they are not all there.
// It must not outlive m, nor the call: growing the memory moves it.
func (m *memory) view(offset uint64, n int) ([]byte, bool) {
	if m.instance.closed.Load() {
		return nil, false
	}
	data := m.upstream.Data()
	if size := uint64(len(data)); offset > size || uint64(n) > size-offset {
		return nil, false
	}
	return data[offset : offset+uint64(n)], true
}

func (m *memory) Grow(pages uint32) (uint32, bool) {
	if m.instance.closed.Load() {
		return 0, false
	}
	defer runtime.KeepAlive(m)
	previous := uint32(m.upstream.Size())
	return previous, m.upstream.Grow(upstream.Pages(pages))
}

type global struct {
	instance *instance
	upstream *upstream.Global
	typ      engines.GlobalType
}

func (g *global) Type() engines.GlobalType { return g.typ }

func (g *global) Get() uint64 {
	if g.instance.closed.Load() {
		return 0
	}
	defer runtime.KeepAlive(g)
	v, err := g.upstream.Get()
	if err != nil {
		return 0
	}
	return toWord(v)
}

func (g *global) Set(v uint64) error {
	switch {
	case g.instance.closed.Load():
		return engines.ErrClosed
	case !g.typ.Mutable:
		return errImmutable
	}
	defer runtime.KeepAlive(g)
	return g.upstream.Set(fromWord(g.typ.Value, v), kind(g.typ.Value))
}
