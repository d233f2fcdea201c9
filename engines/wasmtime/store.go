//go:build wasmtime

package wasmtime

// #include "shim.h"
//
// #cgo noescape forgeone_call
import "C"

import (
	"context"
	"runtime/cgo"
	"sync/atomic"
	"unsafe"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/internal/link"
)

// store is a store of Wasmtime: the instances that are linked to each other. It
// is used by one goroutine at a time, and freed as a whole.
type store struct {
	upstream *C.wasmtime_store_t
	context  *C.wasmtime_context_t
	handle   cgo.Handle // of the store itself
	closed   atomic.Bool

	users     int // open instances; guarded by engine.mu
	instances int // that were ever made in it

	hosts []*hostFunc // by the number that Wasmtime knows them by
	calls []call      // under way, the innermost last
	// raws and words are stacks of what calls under way take and return.
	raws  []raw
	words []uint64
}

// call is what Wasmtime does not carry through a guest: the context that a host
// function gets, and the error that the call ended with.
type call struct {
	ctx     context.Context
	failure error
}

// enter counts one more user of st, or of a new store if st is nil.
func (e *engine) enter(st *store, c *compiler) *store {
	if st == nil {
		st = new(store)
		st.handle = cgo.NewHandle(st)
		st.upstream = C.forgeone_store_new(c.upstream, C.uintptr_t(st.handle), c.ticker != nil)
		st.context = C.wasmtime_store_context(st.upstream)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	st.users++
	return st
}

// leave takes back one use of st, and frees it with the last.
func (e *engine) leave(st *store) {
	e.mu.Lock()
	last := st.release()
	e.mu.Unlock()
	if last {
		st.free()
	}
}

// release takes back one use of st and reports whether it was the last. The
// caller holds engine.mu, or is the engine's Close.
func (st *store) release() bool {
	st.users--
	return st.users == 0
}

func (st *store) free() {
	st.closed.Store(true)
	C.wasmtime_store_delete(st.upstream)
	st.handle.Delete()
}

// call calls fn with what words hold, and leaves its results there.
func (st *store) call(ctx context.Context, fn C.wasmtime_func_t, sig *signature, words []uint64) error {
	base := len(st.raws)
	st.raws = append(st.raws, make([]raw, max(1, sig.raws))...) // at least one, so that there is an address
	raws := st.raws[base:]
	defer func() { st.raws = st.raws[:base] }()
	if err := sig.params.lower(st.context, words, raws); err != nil {
		return &engines.Trap{Detail: err.Error()}
	}
	depth := len(st.calls)
	st.calls = append(st.calls, call{ctx: ctx})
	out := C.forgeone_call(st.context, fn, upstreamRaws(raws), C.size_t(len(raws)))
	failure := st.calls[depth].failure
	st.calls[depth] = call{}
	st.calls = st.calls[:depth]
	if failed(out) {
		err := takeError(out)
		if failure != nil {
			return failure
		}
		return err
	}
	sig.results.lift(st.context, raws, words)
	return nil
}

// hostFunc is a host function as one instance imports it.
type hostFunc struct {
	module    string
	fn        *engines.HostFunction
	signature *signature
	caller    caller
}

//export forgeoneWasmtimeHost
func forgeoneWasmtimeHost(handle C.uintptr_t, index C.size_t, from *C.wasmtime_caller_t, values *C.wasmtime_val_raw_t) C.bool {
	st := cgo.Handle(handle).Value().(*store)
	h := st.hosts[index]
	raws := unsafe.Slice((*raw)(unsafe.Pointer(values)), h.signature.raws)
	return C.bool(st.callHost(h, from, raws))
}

// callHost calls h with what raws hold, and leaves its results there. It is
// false when the guest call must end; the error waits in the call.
func (st *store) callHost(h *hostFunc, from *C.wasmtime_caller_t, raws []raw) bool {
	base := len(st.words)
	st.words = append(st.words, make([]uint64, h.signature.slots)...)
	words := st.words[base:]
	outer := h.caller.upstream
	h.caller.upstream = from
	c := len(st.calls) - 1

	h.signature.params.lift(st.context, raws, words)
	err := link.Call(st.calls[c].ctx, h.fn, &h.caller, words)
	if err == nil {
		err = h.signature.results.lower(st.context, words, raws)
	}

	h.caller.upstream = outer
	st.words = st.words[:base]
	if err != nil {
		st.calls[c].failure = &engines.HostError{Module: h.module, Name: h.fn.Name, Err: err}
	}
	return err == nil
}

// caller is the instance that called a host function.
type caller struct {
	store    *store
	importer *instance // of the host function
	upstream *C.wasmtime_caller_t
}

func (c *caller) Memory() engines.Memory {
	if c.store.instances > 1 && c.upstream != nil {
		return c.memoryByName()
	}
	if c.importer.memory == nil {
		return nil
	}
	return c.importer.memory
}

// memoryByName asks Wasmtime who calls: where instances are linked, it need not
// be the one that imported the function.
func (c *caller) memoryByName() engines.Memory {
	var extern C.wasmtime_extern_t
	if !C.wasmtime_caller_export_get(c.upstream, cString(memoryExport), C.size_t(len(memoryExport)), &extern) ||
		extern.kind != C.WASMTIME_EXTERN_MEMORY {
		return nil
	}
	return &memory{store: c.store, closed: &c.store.closed, upstream: *(*C.wasmtime_memory_t)(unsafe.Pointer(&extern.of))}
}

//export forgeoneWasmtimeInterrupted
func forgeoneWasmtimeInterrupted(handle C.uintptr_t) C.bool {
	st := cgo.Handle(handle).Value().(*store)
	for i := len(st.calls) - 1; i >= 0; i-- {
		if trap := interrupted(st.calls[i].ctx); trap != nil {
			st.calls[len(st.calls)-1].failure = trap
			return true
		}
	}
	return false
}

// cString is the address of a string's bytes, without a zero after them.
func cString(s string) *C.char { return (*C.char)(unsafe.Pointer(unsafe.StringData(s))) }
