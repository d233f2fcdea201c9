// Package wasmer adapts github.com/wasmerio/wasmer-go, the Go binding of the
// Wasmer engine, to the contract in package engines. It needs cgo and is built
// with the tag wasmer only; without the tag the package is empty.
//
// Wasmer runs in this process, outside Go: a bug in it ends the process.
// ForgeOne therefore runs it in a worker by default (cmd/forgeone-engine), and
// one binary links at most one cgo engine: wasmer-go and wasmtime-go define the
// same C symbols.
//
// What wasmer-go 1.0.4 cannot do is refused with *engines.UnsupportedError
// before it is asked, since it would end the process instead: v128 values and
// references do not cross the host boundary, and a running guest cannot be
// interrupted. Nor is a module compiled that has a table beside one that it
// imports: there wasmer looks for its own tables in the wrong place, so that
// table.set ends the process, and call_indirect follows whatever lies there.
// Memory limits are held by writing them into the module.
//
// An exhausted stack is a trap if it is found where a function of the guest with
// a frame below 4 KiB begins, and ends the process elsewhere: in a larger frame,
// in a host function, or in one of wasmer's own, such as memory.grow. No stack
// that the adapter could provide helps, since wasmer takes a fault for a trap
// only in code that it compiled; and to report one it walks hundreds of thousands
// of frames, which can take minutes. CompileOptions.CallDepth (engines/meter)
// keeps guests from it whose frames, times the depth, fit the stack of a thread,
// 8 MiB as a rule; a worker contains the others.
//
// Each compilation leaks about 200 KB in wasmer-go: compile once and
// instantiate often, and let a worker that has compiled much be replaced.
package wasmer
