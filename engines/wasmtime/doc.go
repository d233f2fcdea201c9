// Package wasmtime adapts Wasmtime to the contract in package engines. It needs
// cgo and is built with the tag wasmtime only; without the tag the package is
// empty.
//
// Wasmtime runs in this process, outside Go: a bug in it ends the process.
// ForgeOne therefore runs it in a worker by default (cmd/forgeone-engine), and
// one binary links at most one cgo engine: wasmer-go and wasmtime-go define the
// same C symbols. A build with both tags fails here.
//
// # Below the binding
//
// github.com/bytecodealliance/wasmtime-go brings Wasmtime as a static library,
// and is linked for that alone. The adapter calls the library's C API itself
// (capi.h has what it declares, shim.c what it adds): the binding has no access
// to the calls that take raw values, and boxes each value, which costs 2 µs and
// 9 allocations a call where this costs 0.1 µs and none. Nor does it carry
// v128 values. Nothing here is freed by a finalizer.
//
// The library is there for linux/amd64, linux/arm64, darwin/amd64, darwin/arm64
// and windows/amd64, on Linux for the GNU C library; elsewhere the build fails
// for want of it. All five come with the module, which is 237 MB
// unpacked; a binary grows by about 20 MB, and needs no file beside it.
//
// # Stores
//
// Wasmtime keeps instances in stores, which one goroutine at a time can use and
// which are freed as a whole. Here each instance has its own, but one that is
// given other instances joins theirs. So instances that are linked, directly or
// by others, must not run at once; their memory is freed when the last of them
// is closed; and there can be 10,000 of them, closed ones included. Instances to
// import from that are in different stores cannot be brought together later:
// give the first to the second in its Imports, even if that imports nothing of it.
//
// A memory reserves 4 GiB of addresses, whatever its size: some 30,000 fit in a
// process, and fewer under a limit on its address space (RLIMIT_AS).
//
// # Interruption
//
// Interruptible modules are compiled by an engine of Wasmtime of their own, so
// they link to each other only. Their guests look at their contexts every
// millisecond that calls with a cancellable context are under way, which a
// goroutine of the engine counts; it rests when there are none, and ends with
// Close. Instructions that take long, such as memory.fill, are not cut short:
// package engines/meter does that.
package wasmtime
