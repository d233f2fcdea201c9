//go:build wasmer

package wasmer

/*
#include <stddef.h>
#include <stdint.h>

// What is used of Wasmer's wasm.h, which its Go binding has and does not lend.
typedef struct { uint8_t kind; union { int32_t i32; int64_t i64; } of; } wasm_val_t;
typedef struct { size_t size; wasm_val_t *data; } wasm_val_vec_t;
typedef struct { size_t size; char *data; } wasm_byte_vec_t;
typedef struct wasm_func_t wasm_func_t;
typedef struct wasm_trap_t wasm_trap_t;
typedef struct wasm_frame_t wasm_frame_t;
typedef struct { size_t size; wasm_frame_t **data; } wasm_frame_vec_t;

wasm_trap_t *wasm_func_call(const wasm_func_t *, const wasm_val_vec_t *, wasm_val_vec_t *);
void wasm_trap_message(const wasm_trap_t *, wasm_byte_vec_t *);
void wasm_trap_trace(const wasm_trap_t *, wasm_frame_vec_t *);
void wasm_trap_delete(wasm_trap_t *);
uint32_t wasm_frame_func_index(const wasm_frame_t *);
size_t wasm_frame_module_offset(const wasm_frame_t *);
void wasm_byte_vec_delete(wasm_byte_vec_t *);
void wasm_frame_vec_delete(wasm_frame_vec_t *);

// The instance whose export the embedder called on this thread, as a cgo handle.
static _Thread_local uintptr_t calling;

static uintptr_t forgeone_calling(void) { return calling; }

enum { I32 = 0, F32 = 2 };

// kinds are those of the parameters, then of the results. A call from Go into C
// and back stays on one thread.
static wasm_trap_t *forgeone_call(const void *func, uintptr_t caller, uint64_t *stack,
		const uint8_t *kinds, size_t params, size_t results) {
	wasm_val_t values[params + results + 1];
	for (size_t i = 0; i < params + results; i++) {
		values[i].kind = kinds[i];
		values[i].of.i64 = i < params ? (int64_t)stack[i] : 0;
	}
	wasm_val_vec_t in = {params, values}, out = {results, values + params};
	uintptr_t outer = calling;
	calling = caller;
	wasm_trap_t *trap = wasm_func_call(func, &in, &out);
	calling = outer;
	if (trap == NULL) {
		for (size_t i = 0; i < results; i++) {
			uint8_t kind = kinds[params + i];
			uint64_t word = (uint64_t)values[params + i].of.i64;
			stack[i] = kind == I32 || kind == F32 ? (uint32_t)word : word;
		}
	}
	return trap;
}

static const wasm_frame_t *forgeone_frame(const wasm_frame_vec_t *trace, size_t i) { return trace->data[i]; }
*/
import "C"

import (
	"context"
	"fmt"
	"runtime"
	"runtime/cgo"
	"strings"
	"unsafe"

	upstream "github.com/wasmerio/wasmer-go/wasmer"

	"forgeone.dev/forgeone/engines"
)

// call is what Wasmer does not carry through a guest: the context that a host
// function gets, and the error that it ended with.
type call struct {
	ctx     context.Context
	failure *engines.HostError
}

// underWay is the call that this thread is in, asked for by a host function of
// i. If i is linked to no other instance, that is its own.
func (i *instance) underWay() *call {
	if len(i.imports.Instances) == 0 && !i.lends.Load() {
		return &i.call
	}
	return &cgo.Handle(C.forgeone_calling()).Value().(*instance).call
}

type function struct {
	instance *instance
	name     string
	typ      engines.FuncType
	slots    int
	kinds    []uint8
	upstream *upstream.Function
}

func newFunction(i *instance, name string, typ engines.FuncType) (*function, error) {
	raw, err := i.upstream.Exports.GetRawFunction(name)
	if err != nil {
		return nil, &engines.ExportError{Name: name, Reason: err.Error()}
	}
	f := &function{instance: i, name: name, typ: typ, slots: typ.Slots(), upstream: raw}
	for _, types := range [][]engines.ValueType{typ.Params, typ.Results} {
		for _, t := range types {
			f.kinds = append(f.kinds, uint8(kind(t)))
		}
	}
	return f, nil
}

func (f *function) Type() engines.FuncType { return f.typ }

// Call goes round the Go binding, which makes and frees what it passes, each in
// a call of C of its own. Its function is found again, by host functions of the
// instance or of its lenders, through the thread.
func (f *function) Call(ctx context.Context, stack []uint64) error {
	if len(stack) < f.slots {
		return &engines.ArgumentError{Func: f.name, Want: f.slots, Got: len(stack)}
	}
	i := f.instance
	if i.closed.Load() {
		return engines.ErrClosed
	}
	outer := i.call
	i.call = call{ctx: ctx}
	// The first field of the binding's function is Wasmer's.
	native := *(*unsafe.Pointer)(unsafe.Pointer(f.upstream))
	trap := C.forgeone_call(native, C.uintptr_t(i.handle), (*C.uint64_t)(unsafe.SliceData(stack)),
		(*C.uint8_t)(unsafe.SliceData(f.kinds)), C.size_t(len(f.typ.Params)), C.size_t(len(f.typ.Results)))
	failure := i.call.failure
	i.call = outer
	runtime.KeepAlive(f)
	if trap == nil {
		return nil
	}
	defer C.wasm_trap_delete(trap)
	if failure != nil {
		return failure
	}
	return trapOf(trap)
}

// trapOf types a trap that a call ended with.
func trapOf(trap *C.wasm_trap_t) *engines.Trap {
	var message C.wasm_byte_vec_t
	C.wasm_trap_message(trap, &message)
	defer C.wasm_byte_vec_delete(&message)
	text := strings.TrimSuffix(C.GoStringN(message.data, C.int(message.size)), "\x00")
	var trace C.wasm_frame_vec_t
	C.wasm_trap_trace(trap, &trace)
	defer C.wasm_frame_vec_delete(&trace)
	var b strings.Builder
	b.WriteString(text)
	for i := range trace.size {
		if i == maxFrames {
			fmt.Fprintf(&b, "\n\t… and %d more frames", trace.size-i)
			break
		}
		frame := C.forgeone_frame(&trace, i)
		fmt.Fprintf(&b, "\n\tfunction %d at byte %#x of the module", C.wasm_frame_func_index(frame), C.wasm_frame_module_offset(frame))
	}
	return &engines.Trap{Class: trapClasses[text], Detail: b.String()}
}
