package wazero

import (
	"context"
	"fmt"
	"math"
	goruntime "runtime"
	"sync"
	"sync/atomic"
	"unsafe"
	"weak"

	upstream "github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"forgeone.dev/forgeone/engines"
)

// hostModules are the host modules a runtime has built. Compiling one costs
// more than instantiating a guest, so each is built once; it is dropped when
// what it was built from is collected or the runtime closes, whichever is first.
type hostModules struct {
	mu      sync.Mutex
	entries map[hostKey]hostModule
}

// hostKey is what a host module was built from and the name it is imported by,
// which its errors carry.
type hostKey struct {
	from weak.Pointer[engines.HostModule]
	name string
}

type hostModule struct {
	api.Module
	compiled upstream.CompiledModule
	cleanup  goruntime.Cleanup
}

// get returns the wazero module for hm imported as name, building it at first use.
func (h *hostModules) get(ctx context.Context, rt *runtime, name string, hm *engines.HostModule) (api.Module, error) {
	key := hostKey{weak.Make(hm), name}
	h.mu.Lock()
	defer h.mu.Unlock()
	if rt.closed.Load() {
		return nil, engines.ErrClosed
	}
	if m, ok := h.entries[key]; ok {
		return m.Module, nil
	}
	m, err := rt.buildHost(ctx, name, hm)
	if err != nil {
		return nil, err
	}
	m.cleanup = goruntime.AddCleanup(hm, h.drop, key)
	if h.entries == nil {
		h.entries = make(map[hostKey]hostModule)
	}
	h.entries[key] = m
	return m.Module, nil
}

func (h *hostModules) drop(key hostKey) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m, ok := h.entries[key]; ok {
		delete(h.entries, key)
		m.close()
	}
}

// close drops all; the runtime is marked closed before, so none is added after.
func (h *hostModules) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.entries {
		m.cleanup.Stop()
		m.close()
	}
	h.entries = nil
}

// close frees a host module; wazero has nothing to report for one.
func (m hostModule) close() {
	_ = m.Module.Close(context.Background())
	_ = m.compiled.Close(context.Background())
}

// buildHost compiles and instantiates hm. Instantiating the compiled module,
// rather than the builder, yields a module that an import resolver may return,
// and one without a name in the runtime; the builder wants one all the same.
func (rt *runtime) buildHost(ctx context.Context, module string, hm *engines.HostModule) (hostModule, error) {
	builder := rt.NewHostModuleBuilder("host")
	for i := range hm.Functions {
		fn := hm.Functions[i] // a copy: the cache must not keep hm alive
		builder.NewFunctionBuilder().
			WithGoModuleFunction(rt.hostFunc(module, &fn), valueTypes(fn.Type.Params), valueTypes(fn.Type.Results)).
			Export(fn.Name)
	}
	compiled, err := builder.Compile(ctx)
	if err != nil {
		return hostModule{}, fmt.Errorf("host functions: %w", err)
	}
	m, err := rt.InstantiateModule(ctx, compiled, upstream.NewModuleConfig().WithName(""))
	if err != nil {
		_ = compiled.Close(ctx)
		return hostModule{}, fmt.Errorf("host functions: %w", err)
	}
	return hostModule{Module: m, compiled: compiled}, nil
}

// hostFunc wraps fn for wazero, which ends a guest call by a panic: an error of
// fn becomes one, and a panic of fn becomes an error first.
func (rt *runtime) hostFunc(module string, fn *engines.HostFunction) api.GoModuleFunc {
	slots, narrow := fn.Type.Slots(), narrowWords(fn.Type.Params)
	return func(ctx context.Context, mod api.Module, stack []uint64) {
		for _, word := range narrow {
			stack[word] &= math.MaxUint32
		}
		returned := false
		defer func() {
			if returned {
				return
			}
			if r := recover(); r != nil {
				panic(&engines.HostError{Module: module, Name: fn.Name, Err: engines.Panicked(r)})
			}
		}()
		err := fn.Call(ctx, rt.callers.of(mod), stack[:slots])
		returned = true
		if err != nil {
			panic(&engines.HostError{Module: module, Name: fn.Name, Err: err})
		}
	}
}

// narrowWords are the words that 32-bit values of a list take on the stack.
// wazero writes their lower half and leaves in the upper what was there before.
func narrowWords(types []engines.ValueType) []int {
	var narrow []int
	word := 0
	for _, t := range types {
		switch t {
		case engines.I32, engines.F32:
			narrow = append(narrow, word)
		case engines.V128:
			word++
		}
		word++
	}
	return narrow
}

func valueTypes(ts []engines.ValueType) []api.ValueType {
	out := make([]api.ValueType, len(ts))
	for i, t := range ts {
		out[i] = api.ValueType(t) // both are the binary format's encoding
	}
	return out
}

// caller is what a host function sees of the instance that called it.
type caller struct {
	mod    api.Module
	at     uintptr // the address of mod
	memory engines.Memory
}

func newCaller(mod api.Module) *caller { return &caller{mod, address(mod), firstMemory(mod)} }

func (c *caller) Memory() engines.Memory { return c.memory }

// callers finds the caller for the wazero module that a host call names. recent
// has those that called last, because looking in the map takes as long as a
// third of a host call.
type callers struct {
	all    sync.Map // api.Module to *caller
	recent [64]atomic.Pointer[caller]
}

func (cs *callers) of(mod api.Module) *caller {
	at := address(mod)
	recent := cs.slot(at)
	if c := recent.Load(); c != nil && c.at == at {
		return c
	}
	if c, ok := cs.all.Load(mod); ok {
		recent.Store(c.(*caller))
		return c.(*caller)
	}
	// A start function calls before its instance is known here.
	return newCaller(mod)
}

// slot is where the caller of the module at an address is, if it is recent.
func (cs *callers) slot(at uintptr) *atomic.Pointer[caller] {
	return &cs.recent[at>>8%uintptr(len(cs.recent))]
}

// address is where a module is, which an interface has in its second word.
// Comparing interfaces, or asking package reflect, takes longer than the rest.
func address(mod api.Module) uintptr { return (*[2]uintptr)(unsafe.Pointer(&mod))[1] }

func (cs *callers) add(mod api.Module) { cs.all.Store(mod, newCaller(mod)) }

func (cs *callers) remove(mod api.Module) {
	cs.all.Delete(mod)
	at := address(mod)
	recent := cs.slot(at)
	if c := recent.Load(); c != nil && c.at == at {
		recent.CompareAndSwap(c, nil)
	}
}
