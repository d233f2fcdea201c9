//go:build wasmtime

package wasmtime

// #include "shim.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"unsafe"

	"forgeone.dev/forgeone/engines"
)

var errImmutable = errors.New("wasmtime: the global is immutable")

// trapClasses are by Wasmtime's trap codes (wasmtime_trap_code_enum); those of
// proposals that are switched off are left out.
var trapClasses = [...]engines.TrapClass{
	0: engines.TrapStackExhausted,
	1: engines.TrapMemoryBounds,
	2: engines.TrapMemoryBounds, // misaligned
	3: engines.TrapTableBounds,
	4: engines.TrapTableBounds, // call of a null element
	5: engines.TrapIndirectType,
	6: engines.TrapIntegerOverflow,
	7: engines.TrapDivideByZero,
	8: engines.TrapInvalidConversion,
	9: engines.TrapUnreachable,
}

// interrupted is the trap of a call that must not begin, or go on, because its
// context is done; nil if it may.
func interrupted(ctx context.Context) *engines.Trap {
	if err := ctx.Err(); err != nil {
		return &engines.Trap{Class: engines.TrapInterrupted, Cause: err}
	}
	return nil
}

// failed reports whether a call into Wasmtime did.
func failed(out C.forgeone_outcome) bool { return out.error != nil || out.trap != nil }

// takeError is the error that a call into Wasmtime ended with, a *[engines.Trap].
// It frees what Wasmtime's error and trap are.
func takeError(out C.forgeone_outcome) error {
	if out.error != nil {
		return &engines.Trap{Detail: takeMessage(out.error)}
	}
	defer C.wasm_trap_delete(out.trap)
	var message C.wasm_byte_vec_t
	C.wasm_trap_message(out.trap, &message)
	t := &engines.Trap{Detail: rootCause(takeString(&message)) + stackTrace(out.trap)}
	var code C.uint8_t
	if C.wasmtime_trap_code(out.trap, &code) && int(code) < len(trapClasses) {
		t.Class = trapClasses[code]
	}
	return t
}

// errorOf is the error that a call into Wasmtime returned, which it frees; nil if
// there is none.
func errorOf(err *C.wasmtime_error_t) error {
	if err == nil {
		return nil
	}
	return errors.New(takeMessage(err))
}

// takeMessage is the message of an error, which it frees.
func takeMessage(err *C.wasmtime_error_t) string {
	defer C.wasmtime_error_delete(err)
	var message C.wasm_byte_vec_t
	C.wasmtime_error_message(err, &message)
	return takeString(&message)
}

// takeString is the text of a vector, which it frees.
func takeString(v *C.wasm_byte_vec_t) string {
	defer C.wasm_byte_vec_delete(v)
	return strings.TrimRight(C.GoStringN(v.data, C.int(v.size)), "\x00")
}

// rootCause is the last line of a trap's message. Those before it are a stack
// trace with names from the guest, as long as the stack was deep.
func rootCause(message string) string {
	message = strings.TrimRight(message, "\n")
	return strings.TrimSpace(message[strings.LastIndexByte(message, '\n')+1:])
}

// stackTrace is a line for each frame; Wasmtime keeps the innermost twenty.
// Offsets count from the function's first byte: the module's are those of what
// the adapter made of it.
func stackTrace(t *C.wasm_trap_t) string {
	var frames C.wasm_frame_vec_t
	C.wasm_trap_trace(t, &frames)
	defer C.wasm_frame_vec_delete(&frames)
	var b strings.Builder
	for _, f := range unsafe.Slice(frames.data, frames.size) {
		fmt.Fprintf(&b, "\n\tfunction %d", C.wasm_frame_func_index(f))
		if offset := C.wasm_frame_func_offset(f); offset != math.MaxUint {
			fmt.Fprintf(&b, " at byte %#x of its code", offset)
		}
	}
	return b.String()
}
