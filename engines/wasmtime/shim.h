// What Go calls of Wasmtime where one step would be several, or where a value
// is returned that would else escape to the heap.
#ifndef FORGEONE_WASMTIME_SHIM_H
#define FORGEONE_WASMTIME_SHIM_H

#include "capi.h"

// How a call into Wasmtime ended: well if both are NULL. The caller owns both.
typedef struct {
  wasmtime_error_t *error;
  wasm_trap_t *trap;
} forgeone_outcome;

// Kinds of a value in a list of raw values: what a reference needs to become one.
enum { FORGEONE_PLAIN = 0, FORGEONE_EXTERNREF = 1 };

wasm_engine_t *forgeone_engine_new(bool interruptible);

// The store's data is the handle, by which host functions find their Go side.
wasmtime_store_t *forgeone_store_new(wasm_engine_t *, uintptr_t handle, bool interruptible);

// The type of a function that a module imports; it belongs to the import.
const wasm_functype_t *forgeone_import_functype(const wasm_importtype_t *);

// A host function, as an import: number index of those that the store's Go side has.
void forgeone_host_func(wasmtime_context_t *, const wasm_functype_t *, size_t index, wasmtime_extern_t *);

forgeone_outcome forgeone_instance_new(wasmtime_context_t *, const wasmtime_module_t *, const wasmtime_extern_t *imports,
                                       size_t n, wasmtime_instance_t *);

forgeone_outcome forgeone_call(wasmtime_context_t *, wasmtime_func_t, wasmtime_val_raw_t *, size_t n);

// Words to raw externrefs, in place, and back. A word is what an externref
// holds, and 0 is null. False when the store has no room for another.
bool forgeone_lower_externrefs(wasmtime_context_t *, wasmtime_val_raw_t *, const uint8_t *kinds, size_t n);
void forgeone_lift_externrefs(wasmtime_context_t *, wasmtime_val_raw_t *, const uint8_t *kinds, size_t n);

size_t forgeone_memory_size(wasmtime_context_t *, wasmtime_memory_t);
bool forgeone_memory_read(wasmtime_context_t *, wasmtime_memory_t, uint64_t offset, void *, size_t n);
bool forgeone_memory_write(wasmtime_context_t *, wasmtime_memory_t, uint64_t offset, const void *, size_t n);
// The previous size in pages, or -1.
int64_t forgeone_memory_grow(wasmtime_context_t *, wasmtime_memory_t, uint64_t pages);

uint64_t forgeone_global_get(wasmtime_context_t *, wasmtime_global_t);
bool forgeone_global_set(wasmtime_context_t *, wasmtime_global_t, uint64_t word);

#endif
