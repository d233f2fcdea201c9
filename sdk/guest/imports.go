//go:build wasip1

package guest

import "unsafe"

// The imports of forge/1.

//go:wasmimport forge input
//go:noescape
func hostInput(ptr unsafe.Pointer, room uint32) uint32

//go:wasmimport forge output
//go:noescape
func hostOutput(ptr unsafe.Pointer, n uint32)

//go:wasmimport forge fail
//go:noescape
func hostFail(code int32, ptr unsafe.Pointer, n uint32)

//go:wasmimport forge syscall
//go:noescape
func hostSyscall(req unsafe.Pointer, reqLen uint32, payload unsafe.Pointer, payloadLen uint32, buf unsafe.Pointer, room uint32) uint64

//go:wasmimport forge result
//go:noescape
func hostResult(ptr unsafe.Pointer, room uint32) uint32

// at is where b begins. The host is told the length with it, and looks at
// nothing of an empty b.
func at(b []byte) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(b)) }
