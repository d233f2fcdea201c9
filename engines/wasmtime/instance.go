//go:build wasmtime

package wasmtime

// #include "shim.h"
//
// #cgo noescape wasmtime_instance_export_get
// #cgo nocallback wasmtime_instance_export_get
// #cgo nocallback forgeone_memory_size
// #cgo noescape forgeone_memory_read
// #cgo nocallback forgeone_memory_read
// #cgo noescape forgeone_memory_write
// #cgo nocallback forgeone_memory_write
// #cgo nocallback forgeone_memory_grow
// #cgo nocallback forgeone_global_get
// #cgo nocallback forgeone_global_set
import "C"

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"unsafe"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/internal/link"
	"forgeone.dev/forgeone/engines/internal/mapping"
)

var (
	_ engines.Instance = (*instance)(nil)
	_ engines.Func     = (*function)(nil)
	_ engines.Memory   = (*memory)(nil)
	_ engines.Global   = (*global)(nil)
	_ engines.Caller   = (*caller)(nil)
)

type instance struct {
	module   *module
	store    *store
	upstream C.wasmtime_instance_t
	imports  engines.Imports // the lenders must stay
	memory   *memory         // memory 0, nil if there is none
	closed   atomic.Bool
	overlay  mapping.Overlay
}

// externs is what Wasmtime links i to, in the order of its imports.
func (i *instance) externs() []C.wasmtime_extern_t {
	externs := make([]C.wasmtime_extern_t, len(i.module.iface.Imports))
	types := unsafe.Slice(i.module.imports.data, i.module.imports.size)
	for n, im := range i.module.iface.Imports {
		if lender, ok := i.imports.Instances[im.Module]; ok {
			externs[n], _ = lender.(*instance).extern(im.Name) // the check before found it
			continue
		}
		st := i.store
		C.forgeone_host_func(st.context, C.forgeone_import_functype(types[n]), C.size_t(len(st.hosts)), &externs[n])
		st.hosts = append(st.hosts, &hostFunc{
			module:    im.Module,
			fn:        link.Function(i.imports.Host[im.Module], im.Name),
			signature: i.module.signatures[n],
			caller:    caller{store: st, importer: i},
		})
	}
	return externs
}

// extern is an export of that name, of the guest's or the adapter's own.
func (i *instance) extern(name string) (extern C.wasmtime_extern_t, ok bool) {
	ok = bool(C.wasmtime_instance_export_get(i.store.context, &i.upstream, cString(name), C.size_t(len(name)), &extern))
	return extern, ok
}

// adopt makes the engine the owner of i, who frees it if nobody else does.
func (e *engine) adopt(i *instance) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.instances[i] = struct{}{}
}

func (i *instance) Close() error {
	if i.closed.Swap(true) {
		return nil
	}
	e := i.module.engine
	e.mu.Lock()
	_, open := e.instances[i] // else the engine's Close frees it
	delete(e.instances, i)
	last := open && i.store.release()
	e.mu.Unlock()
	if last {
		i.store.free()
	}
	i.overlay.Close()
	return nil
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
	return i.function(name, t.Func)
}

func (i *instance) function(name string, typ engines.FuncType) (*function, error) {
	extern, ok := i.extern(name)
	if !ok {
		return nil, &engines.ExportError{Name: name, Reason: "the instance lacks what its module exports"}
	}
	return &function{
		instance:  i,
		name:      name,
		typ:       typ,
		signature: newSignature(typ),
		upstream:  *(*C.wasmtime_func_t)(unsafe.Pointer(&extern.of)),
	}, nil
}

// start runs the start function.
func (i *instance) start(ctx context.Context) error {
	f, err := i.function(i.module.startExport, engines.FuncType{})
	if err != nil {
		return err
	}
	return f.Call(ctx, nil)
}

func (i *instance) Memory(name string) engines.Memory {
	if i.closed.Load() || i.module.exports[name].Kind != engines.KindMemory {
		return nil
	}
	if mem := i.lookupMemory(name); mem != nil {
		return mem
	}
	return nil
}

func (i *instance) lookupMemory(name string) *memory {
	extern, ok := i.extern(name)
	if !ok || extern.kind != C.WASMTIME_EXTERN_MEMORY {
		return nil
	}
	return &memory{store: i.store, closed: &i.closed, upstream: *(*C.wasmtime_memory_t)(unsafe.Pointer(&extern.of))}
}

func (i *instance) Global(name string) engines.Global {
	t := i.module.exports[name]
	if i.closed.Load() || t.Kind != engines.KindGlobal {
		return nil
	}
	extern, ok := i.extern(name)
	if !ok {
		return nil
	}
	return &global{i, *(*C.wasmtime_global_t)(unsafe.Pointer(&extern.of)), t.Global}
}

type function struct {
	instance  *instance
	name      string
	typ       engines.FuncType
	signature *signature
	upstream  C.wasmtime_func_t
}

func (f *function) Type() engines.FuncType { return f.typ }

func (f *function) Call(ctx context.Context, stack []uint64) error {
	if len(stack) < f.signature.slots {
		return &engines.ArgumentError{Func: f.name, Want: f.signature.slots, Got: len(stack)}
	}
	if f.instance.closed.Load() {
		return engines.ErrClosed
	}
	if t := f.instance.module.compiler.ticker; t != nil {
		if trap := interrupted(ctx); trap != nil {
			return trap
		}
		if ctx.Done() != nil {
			t.begin()
			defer t.end()
		}
	}
	return f.instance.store.call(ctx, f.upstream, f.signature, stack)
}

// memory is a linear memory, dead once the instance it was asked of is closed.
type memory struct {
	store    *store
	closed   *atomic.Bool
	upstream C.wasmtime_memory_t
}

func (m *memory) Size() uint64 {
	if m.closed.Load() {
		return 0
	}
	return uint64(C.forgeone_memory_size(m.store.context, m.upstream))
}

// In Read and Write cgo must see that what is pointed to is an element of a
// slice of bytes: it looks for pointers in all of the object that holds it else.

func (m *memory) Read(offset uint64, dst []byte) bool {
	if len(dst) == 0 {
		return m.holds(offset)
	}
	return !m.closed.Load() && bool(C.forgeone_memory_read(m.store.context, m.upstream,
		C.uint64_t(offset), unsafe.Pointer(&dst[0]), C.size_t(len(dst))))
}

func (m *memory) Write(offset uint64, src []byte) bool {
	if len(src) == 0 {
		return m.holds(offset)
	}
	return !m.closed.Load() && bool(C.forgeone_memory_write(m.store.context, m.upstream,
		C.uint64_t(offset), unsafe.Pointer(&src[0]), C.size_t(len(src))))
}

// holds reports whether nothing can be copied at offset.
func (m *memory) holds(offset uint64) bool { return !m.closed.Load() && offset <= m.Size() }

func (m *memory) Grow(pages uint32) (uint32, bool) {
	if m.closed.Load() {
		return 0, false
	}
	previous := C.forgeone_memory_grow(m.store.context, m.upstream, C.uint64_t(pages))
	return uint32(max(0, previous)), previous >= 0
}

type global struct {
	instance *instance
	upstream C.wasmtime_global_t
	typ      engines.GlobalType
}

func (g *global) Type() engines.GlobalType { return g.typ }

func (g *global) Get() uint64 {
	if g.instance.closed.Load() {
		return 0
	}
	word := uint64(C.forgeone_global_get(g.instance.store.context, g.upstream))
	if g.typ.Value == engines.I32 || g.typ.Value == engines.F32 {
		word &= math.MaxUint32
	}
	return word
}

func (g *global) Set(v uint64) error {
	switch {
	case g.instance.closed.Load():
		return engines.ErrClosed
	case !g.typ.Mutable:
		return errImmutable
	case !bool(C.forgeone_global_set(g.instance.store.context, g.upstream, C.uint64_t(v))):
		return errTooManyRefs
	}
	return nil
}
