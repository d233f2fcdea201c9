// Package engines is the contract between ForgeOne and a WebAssembly engine.
//
// It says what an engine must do and nothing of what guests are allowed to do:
// no ABI names, no policy, no logging. An implementation lives in a package
// below this one (engines/wazero, engines/wasmer, …), exports New and passes
// the conformance suite in engines/enginetest.
//
// Values cross the contract as raw 64-bit words, the way the WebAssembly
// specification encodes them: an i32 in the low 32 bits, an f32 as its IEEE 754
// bits in the low 32 bits, i64 and f64 as they are, references as opaque words
// (0 is null). The upper half of a 32-bit value's word is ignored when an engine
// reads it and zero when it writes it. The constructors of [Value] do that
// encoding.
//
// A reference word MUST come from the instance it is given to: engines follow it
// as a pointer.
package engines

import (
	"context"
	"os"
)

// WasmEngine compiles WebAssembly binaries.
//
// Implementations MUST be safe for concurrent use.
type WasmEngine interface {
	// Info says which engine this is and what it can do. The answer is constant.
	Info() Info

	// Compile validates and compiles a binary (WebAssembly 2.0 core, binary
	// format). It keeps no reference to wasm after it returns.
	//
	// Errors: *[CompileError] for a binary that is malformed, invalid or beyond
	// a limit, and for a context that was done; *[UnsupportedError] for an option or feature the engine lacks,
	// found before anything is compiled; [ErrClosed] after Close.
	Compile(ctx context.Context, wasm []byte, opts CompileOptions) (Module, error)

	// Close frees the engine and everything compiled by it. Closing twice is a
	// no-op that returns nil.
	Close() error
}

// Info describes an engine.
type Info struct {
	Name    string // as written in HCL: "wazero", "wasmer", "wasmtime" or a custom engine's own
	Version string // upstream version, e.g. "1.12.0"
	// SafeCallDepth is how deep calls may be nested before the engine may end
	// the process, or hang, where it should trap; 0 says that it always traps.
	// What holds CompileOptions.CallDepth holds it to this.
	SafeCallDepth uint32
	Features
}

// Features is what an engine can do beyond the contract's core. The
// conformance suite skips, by name, only what is false here.
type Features struct {
	Interrupt   bool // a running guest stops when its context is done (CompileOptions.Interruptible)
	MemoryLimit bool // CompileOptions.MemoryLimitPages is held
	// Metering says that CompileOptions.Fuel and CallDepth are held, and that
	// instances compiled with Fuel are [FuelMeter]s.
	Metering bool
	// V128Values and RefValues say whether v128, and funcref and externref, can
	// cross the host boundary. Where not, a module does not compile if the type
	// of an import or export of it has one.
	V128Values bool
	RefValues  bool
	// MappedMemory says that instances compiled with CompileOptions.MappedMemory
	// are [MemoryMapper]s, here on this system.
	MappedMemory bool
	// Snapshots says that modules compiled with CompileOptions.Snapshots are
	// [Snapshotter]s.
	Snapshots bool
}

// CompileOptions are fixed when a module is compiled. The zero value asks for
// no limit.
type CompileOptions struct {
	// MemoryLimitPages caps every linear memory, in pages of 64 KiB; 0 means
	// the engine's own maximum. A module whose minimum is above it does not
	// compile; memory.grow beyond it returns -1 to the guest.
	MemoryLimitPages uint32

	// Interruptible makes calls end when their context is done, with a
	// *[Trap] of class [TrapInterrupted].
	Interruptible bool

	// Fuel is what each call may spend, in units of about one instruction; 0
	// asks for no limit. A call succeeds if and only if it spends no more, and
	// ends with a *[Trap] of class [TrapFuel] else. What it spends follows from
	// the module and what it is given alone, and is the same on every engine. A
	// call that a host function makes back into the guest, and what functions of
	// other instances do for it, is part of the call.
	Fuel uint64

	// CallDepth caps the depth at which calls of functions that can call
	// themselves, directly or by others, are nested in an instance; 0 leaves it
	// to the engine's stack. Beyond it a call ends with a *[Trap] of class
	// [TrapStackExhausted].
	CallDepth uint32

	// MappedMemory asks for instances that are [MemoryMapper]s. Their memory
	// does not move when it grows.
	MappedMemory bool

	// Snapshots asks for a module that is a [Snapshotter].
	Snapshots bool
}

// Serializer is a [WasmEngine] whose machine code can be kept.
type Serializer interface {
	// Serialize compiles a binary to what Deserialize makes a module of. Errors:
	// as [WasmEngine.Compile].
	Serialize(ctx context.Context, wasm []byte, opts CompileOptions) (code []byte, err error)

	// Deserialize makes a module of what Serialize returned, without compiling.
	// The code MUST be authentic, and of the same engine, version, options and
	// kind of CPU and for the same binary: an engine runs it as it is. It keeps no
	// reference to wasm and code. Errors: as [WasmEngine.Compile], and for code
	// that the engine does not recognise.
	Deserialize(ctx context.Context, wasm, code []byte, opts CompileOptions) (Module, error)
}

// Snapshotter is a [Module] that can make instances as one of its own stood at
// some moment.
type Snapshotter interface {
	// Snapshot takes the state of an instance of the module: memory, globals and
	// tables. No call of the instance may be under way; it can be used after.
	// Errors: *[SnapshotError], which names what of it could not be given back.
	Snapshot(inst Instance) (Snapshot, error)
}

// Snapshot is the state of an instance. Implementations MUST be safe for
// concurrent use.
type Snapshot interface {
	// Instantiate makes an instance that stands as the one did whose state this
	// is. It runs nothing of the guest. Errors: as [Module.Instantiate].
	Instantiate(ctx context.Context, imports Imports) (Instance, error)

	// Restore puts an instance that the snapshot made back to how it began, for
	// less than a new one costs. No call of it may be under way. False says that
	// it cannot, because the instance's memory has grown, a table or segment of
	// it may have changed, or it is closed: the caller closes it and makes
	// another.
	Restore(inst Instance) bool

	// Size is the size of the captured memory in bytes.
	Size() uint64

	// Close frees the snapshot. Instances it made go on, and can no longer be
	// restored. Closing twice is a no-op.
	Close() error
}

// MemoryMapper is an [Instance] that can have the bytes of a file as its memory,
// without reading them: pages are the file's until they are written to.
type MemoryMapper interface {
	// MapMemory makes the first size bytes of the exported memory of that name
	// those of the file, privately: writes are seen by the instance alone, and
	// not by the file, which must not change while it is mapped. size is a
	// multiple of [PageSize] and not above the memory's size; the file is at
	// least as long. No call of the instance may be under way. On an error the
	// memory is as it was.
	MapMemory(name string, file *os.File, size uint64) error

	// ResetMemory gives up what was written to the mapped bytes since.
	ResetMemory(name string) error
}

// FuelMeter is an [Instance] that counts what its calls spend.
type FuelMeter interface {
	// FuelUsed is what the last call of the instance from outside has spent,
	// whether it succeeded or not; after Instantiate, what the start function
	// has. Of a call that ended with a trap of the guest's own, what its
	// innermost function spent since it last called another may be missing.
	// What it reports of a call that is under way is undefined.
	FuelUsed() uint64
}

// Module is compiled code. Implementations MUST be safe for concurrent use.
type Module interface {
	// Imports and Exports list what the module asks for and offers, in the
	// order of the binary, with types. The slices are the caller's to read,
	// not to change.
	Imports() []ImportType
	Exports() []ExportType

	// Instantiate links the imports and runs the start function, if any.
	//
	// Errors: *[LinkError] when an import is missing or of another type;
	// *[Trap] or *[HostError] when the start function or an active segment
	// traps; [ErrClosed] after Close. On an error nothing is left behind.
	Instantiate(ctx context.Context, imports Imports) (Instance, error)

	// Close frees the code. Instances MUST be closed before; closing twice is
	// a no-op that returns nil.
	Close() error
}

// Imports is what an instance is linked to, keyed by import module name. A
// name MUST NOT be in both maps.
type Imports struct {
	// Host holds functions of the embedder.
	Host map[string]*HostModule
	// Instances lends the exports of other instances (functions, memories,
	// globals, tables) of the same engine. They MUST outlive the importer. An
	// engine may link only modules that were compiled with equal options; the
	// *[LinkError] says so.
	Instances map[string]Instance
}

// HostModule is a set of host functions, not changed once used. Adapters may
// cache what they derive from it by its address, so a binding builds one at
// load time and passes the same for each instance.
type HostModule struct {
	Functions []HostFunction
}

// HostFunction is a function of the embedder that a guest may import.
type HostFunction struct {
	Name string
	Type FuncType
	// Call runs the function. stack holds the parameters on entry and takes
	// the results on return: its length is the larger of the two counts.
	// ctx is derived from the context of the guest call. caller is valid until
	// Call returns. An error ends the guest call with *[HostError], which
	// unwraps to it; so does a panic, which becomes an error.
	Call func(ctx context.Context, caller Caller, stack []uint64) error
}

// Caller is the instance that called a host function.
type Caller interface {
	// Memory is the caller's first memory, or nil if it has none.
	Memory() Memory
}

// Instance is one running copy of a module. It MUST NOT be used by two
// goroutines at once; different instances may be used concurrently.
type Instance interface {
	// Func looks up an exported function. Errors: *[ExportError] when there is
	// none of that name or it is not a function; [ErrClosed].
	Func(name string) (Func, error)

	// Memory is the exported memory of that name, nil if there is none or the
	// instance is closed.
	Memory(name string) Memory

	// Global is the exported global of that name, nil if there is none or the
	// instance is closed.
	Global(name string) Global

	// Close frees the instance. Calls in flight on it are undefined: the owner
	// waits for them or interrupts them first. Closing twice is a no-op.
	Close() error
}

// Func is an exported function, looked up once and called often.
type Func interface {
	Type() FuncType

	// Call runs the function. stack holds the parameters on entry and the
	// results on return and MUST have room for the larger of the two counts:
	// *[ArgumentError] otherwise. It allocates nothing that the engine does not
	// force it to. A host function may call back into the function that called it.
	//
	// An interruption may close the instance: later calls return [ErrClosed] or
	// a *[Trap], and never hang.
	//
	// Errors: *[Trap], *[HostError], *[ArgumentError], [ErrClosed].
	Call(ctx context.Context, stack []uint64) error
}

// Memory is a linear memory. Offsets and lengths are in bytes; 32-bit memories
// take offsets up to 4 GiB. Once the instance it was asked of is closed, its size
// is 0 and nothing can be read, written or grown.
type Memory interface {
	// Size is the current size in bytes.
	Size() uint64
	// Read copies len(dst) bytes from offset; false, with nothing copied, when
	// any of them is out of bounds.
	Read(offset uint64, dst []byte) bool
	// Write copies src to offset; false, with nothing written, when any byte
	// would be out of bounds.
	Write(offset uint64, src []byte) bool
	// Grow adds pages of 64 KiB and returns the previous size in pages; false
	// when the maximum or the limit forbids it.
	Grow(pages uint32) (previous uint32, ok bool)
}

// Global is an exported global.
type Global interface {
	Type() GlobalType
	Get() uint64
	// Set stores v; an error for an immutable global.
	Set(v uint64) error
}
