//go:build wasmtime

#include "_cgo_export.h"
#include "shim.h"

#include <stdlib.h>
#include <string.h>

// WebAssembly 2.0 and no more, so that each engine takes the same modules.
wasm_engine_t *forgeone_engine_new(bool interruptible) {
  wasm_config_t *config = wasm_config_new();
  wasmtime_config_wasm_custom_page_sizes_set(config, false);
  wasmtime_config_wasm_exceptions_set(config, false);
  wasmtime_config_wasm_gc_set(config, false);
  wasmtime_config_wasm_function_references_set(config, false);
  wasmtime_config_wasm_memory64_set(config, false);
  wasmtime_config_wasm_multi_memory_set(config, false);
  wasmtime_config_wasm_relaxed_simd_set(config, false);
  wasmtime_config_wasm_stack_switching_set(config, false);
  wasmtime_config_wasm_tail_call_set(config, false);
  wasmtime_config_wasm_threads_set(config, false);
  wasmtime_config_wasm_wide_arithmetic_set(config, false);
  wasmtime_config_epoch_interruption_set(config, interruptible);
  return wasm_engine_new_with_config(config);
}

// A tick has come while guest code runs, or before it: go on until the next,
// unless a context is done.
static wasmtime_error_t *on_tick(wasmtime_context_t *context, void *data, uint64_t *delta,
                                 wasmtime_update_deadline_kind_t *kind) {
  if (forgeoneWasmtimeInterrupted((uintptr_t)data)) {
    return wasmtime_error_new("interrupted");
  }
  *delta = 1;
  *kind = WASMTIME_UPDATE_DEADLINE_CONTINUE;
  return NULL;
}

wasmtime_store_t *forgeone_store_new(wasm_engine_t *engine, uintptr_t handle, bool interruptible) {
  wasmtime_store_t *store = wasmtime_store_new(engine, (void *)handle, NULL);
  if (interruptible) {
    wasmtime_store_epoch_deadline_callback(store, on_tick, (void *)handle, NULL);
    wasmtime_context_set_epoch_deadline(wasmtime_store_context(store), 1);
  }
  return store;
}

const wasm_functype_t *forgeone_import_functype(const wasm_importtype_t *import) {
  return wasm_externtype_as_functype_const(wasm_importtype_type(import));
}

static wasm_trap_t *call_host(void *env, wasmtime_caller_t *caller, wasmtime_val_raw_t *values, size_t n) {
  uintptr_t handle = (uintptr_t)wasmtime_context_get_data(wasmtime_caller_context(caller));
  if (forgeoneWasmtimeHost(handle, (size_t)env, caller, values)) {
    return NULL;
  }
  static const char message[] = "a host function failed";
  return wasmtime_trap_new(message, sizeof message - 1);
}

void forgeone_host_func(wasmtime_context_t *context, const wasm_functype_t *type, size_t index,
                        wasmtime_extern_t *import) {
  import->kind = WASMTIME_EXTERN_FUNC;
  wasmtime_func_new_unchecked(context, type, call_host, (void *)index, NULL, &import->of.func);
}

forgeone_outcome forgeone_instance_new(wasmtime_context_t *context, const wasmtime_module_t *module,
                                       const wasmtime_extern_t *imports, size_t n, wasmtime_instance_t *instance) {
  forgeone_outcome out = {NULL, NULL};
  out.error = wasmtime_instance_new(context, module, imports, n, instance, &out.trap);
  return out;
}

forgeone_outcome forgeone_call(wasmtime_context_t *context, wasmtime_func_t func, wasmtime_val_raw_t *values,
                               size_t n) {
  forgeone_outcome out = {NULL, NULL};
  out.error = wasmtime_func_call_unchecked(context, &func, values, n, &out.trap);
  return out;
}

// A raw reference keeps nothing alive, and making one may collect: so all are
// made before the first becomes raw, and let go when none can be collected
// before the guest has them.
bool forgeone_lower_externrefs(wasmtime_context_t *context, wasmtime_val_raw_t *values, const uint8_t *kinds,
                               size_t n) {
  wasmtime_externref_t *refs = calloc(n, sizeof *refs); // store_id 0 is null
  bool ok = refs != NULL;
  for (size_t i = 0; ok && i < n; i++) {
    if (kinds[i] == FORGEONE_EXTERNREF && values[i].i64 != 0) {
      ok = wasmtime_externref_new(context, (void *)values[i].i64, NULL, &refs[i]);
    }
  }
  for (size_t i = 0; ok && i < n; i++) {
    if (kinds[i] == FORGEONE_EXTERNREF) {
      values[i].i64 = refs[i].store_id == 0 ? 0 : wasmtime_externref_to_raw(context, &refs[i]);
    }
  }
  for (size_t i = 0; refs != NULL && i < n; i++) {
    if (refs[i].store_id != 0) {
      wasmtime_externref_unroot(&refs[i]);
    }
  }
  free(refs);
  return ok;
}

static uint64_t externref_word(wasmtime_context_t *context, wasmtime_externref_t *ref) {
  if (ref->store_id == 0) {
    return 0;
  }
  uint64_t word = (uint64_t)wasmtime_externref_data(context, ref);
  wasmtime_externref_unroot(ref);
  return word;
}

// Reading a reference collects nothing, so one after the other will do.
void forgeone_lift_externrefs(wasmtime_context_t *context, wasmtime_val_raw_t *values, const uint8_t *kinds,
                              size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (kinds[i] == FORGEONE_EXTERNREF) {
      wasmtime_externref_t ref = {0};
      if (values[i].externref != 0) {
        wasmtime_externref_from_raw(context, values[i].externref, &ref);
      }
      values[i].i64 = externref_word(context, &ref);
    }
  }
}

size_t forgeone_memory_size(wasmtime_context_t *context, wasmtime_memory_t memory) {
  return wasmtime_memory_data_size(context, &memory);
}

// Whether n bytes are there at offset.
static bool in_bounds(wasmtime_context_t *context, const wasmtime_memory_t *memory, uint64_t offset, size_t n) {
  size_t size = wasmtime_memory_data_size(context, memory);
  return offset <= size && n <= size - offset;
}

bool forgeone_memory_read(wasmtime_context_t *context, wasmtime_memory_t memory, uint64_t offset, void *to, size_t n) {
  if (!in_bounds(context, &memory, offset, n)) {
    return false;
  }
  if (n > 0) {
    memcpy(to, wasmtime_memory_data(context, &memory) + offset, n);
  }
  return true;
}

bool forgeone_memory_write(wasmtime_context_t *context, wasmtime_memory_t memory, uint64_t offset, const void *from,
                           size_t n) {
  if (!in_bounds(context, &memory, offset, n)) {
    return false;
  }
  if (n > 0) {
    memcpy(wasmtime_memory_data(context, &memory) + offset, from, n);
  }
  return true;
}

int64_t forgeone_memory_grow(wasmtime_context_t *context, wasmtime_memory_t memory, uint64_t pages) {
  uint64_t previous = 0;
  wasmtime_error_t *error = wasmtime_memory_grow(context, &memory, pages, &previous);
  if (error != NULL) {
    wasmtime_error_delete(error);
    return -1;
  }
  return (int64_t)previous;
}

uint64_t forgeone_global_get(wasmtime_context_t *context, wasmtime_global_t global) {
  wasmtime_val_t value;
  wasmtime_global_get(context, &global, &value);
  switch (value.kind) {
  case WASMTIME_EXTERNREF:
    return externref_word(context, &value.of.externref);
  case WASMTIME_FUNCREF:
    return value.of.funcref.store_id == 0 ? 0 : (uint64_t)wasmtime_func_to_raw(context, &value.of.funcref);
  default:
    return value.of.i64;
  }
}

// The value that is there says the kind, and for a v128 the upper half.
bool forgeone_global_set(wasmtime_context_t *context, wasmtime_global_t global, uint64_t word) {
  wasmtime_val_t value;
  bool ok = true;
  wasmtime_global_get(context, &global, &value);
  switch (value.kind) {
  case WASMTIME_EXTERNREF:
    externref_word(context, &value.of.externref); // lets it go
    value.of.externref.store_id = 0;
    if (word != 0) {
      ok = wasmtime_externref_new(context, (void *)word, NULL, &value.of.externref);
    }
    break;
  case WASMTIME_FUNCREF:
    value.of.funcref.store_id = 0;
    if (word != 0) {
      wasmtime_func_from_raw(context, (void *)word, &value.of.funcref);
    }
    break;
  default:
    value.of.i64 = word;
  }
  if (!ok) {
    return false;
  }
  wasmtime_error_t *error = wasmtime_global_set(context, &global, &value);
  if (value.kind == WASMTIME_EXTERNREF && word != 0) {
    wasmtime_externref_unroot(&value.of.externref);
  }
  if (error != NULL) {
    wasmtime_error_delete(error);
  }
  return error == NULL;
}
