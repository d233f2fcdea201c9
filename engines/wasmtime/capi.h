// What the adapter uses of Wasmtime's C API, version 44, as declared in
// wasm.h and wasmtime.h. The headers themselves come with wasmtime-go, where
// cgo cannot name them; TestDeclarations compiles this file together with them.
#ifndef FORGEONE_WASMTIME_CAPI_H
#define FORGEONE_WASMTIME_CAPI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef WASMTIME_API_H
typedef struct wasm_config_t wasm_config_t;
typedef struct wasm_engine_t wasm_engine_t;
typedef struct wasm_trap_t wasm_trap_t;
typedef struct wasm_frame_t wasm_frame_t;
typedef struct wasm_functype_t wasm_functype_t;
typedef struct wasm_externtype_t wasm_externtype_t;
typedef struct wasm_importtype_t wasm_importtype_t;
typedef struct wasmtime_caller wasmtime_caller_t;
typedef struct wasmtime_context wasmtime_context_t;
typedef struct wasmtime_error wasmtime_error_t;
typedef struct wasmtime_module wasmtime_module_t;
typedef struct wasmtime_store wasmtime_store_t;

typedef struct wasm_byte_vec_t {
  size_t size;
  char *data;
} wasm_byte_vec_t;

typedef struct wasm_frame_vec_t {
  size_t size;
  wasm_frame_t **data;
} wasm_frame_vec_t;

typedef struct wasm_importtype_vec_t {
  size_t size;
  wasm_importtype_t **data;
} wasm_importtype_vec_t;

typedef struct wasmtime_func {
  uint64_t store_id;
  void *__private;
} wasmtime_func_t;

typedef struct wasmtime_global {
  uint64_t store_id;
  uint32_t __private1, __private2, __private3;
} wasmtime_global_t;

typedef struct wasmtime_memory {
  struct {
    uint64_t store_id;
    uint32_t __private1;
  };
  uint32_t __private2;
} wasmtime_memory_t;

typedef struct wasmtime_instance {
  uint64_t store_id;
  size_t __private;
} wasmtime_instance_t;

typedef struct wasmtime_externref {
  uint64_t store_id;
  uint32_t __private1, __private2;
  void *__private3;
} wasmtime_externref_t;

#define WASMTIME_EXTERN_FUNC 0
#define WASMTIME_EXTERN_MEMORY 3

typedef struct wasmtime_extern {
  uint8_t kind;
  union { // tables and tags are no larger
    wasmtime_func_t func;
    wasmtime_global_t global;
    wasmtime_memory_t memory;
  } of;
} wasmtime_extern_t;

#define WASMTIME_FUNCREF 5
#define WASMTIME_EXTERNREF 6

typedef struct wasmtime_val {
  uint8_t kind;
  union { // an anyref is as large as an externref, and nothing is larger
    uint64_t i64;
    wasmtime_func_t funcref;
    wasmtime_externref_t externref;
  } of;
} wasmtime_val_t;

typedef union wasmtime_val_raw {
  uint64_t i64;
  uint8_t v128[16];
  uint32_t externref;
  void *funcref;
} wasmtime_val_raw_t;

typedef uint8_t wasmtime_update_deadline_kind_t;
#define WASMTIME_UPDATE_DEADLINE_CONTINUE 0

typedef wasm_trap_t *(*wasmtime_func_unchecked_callback_t)(void *env, wasmtime_caller_t *, wasmtime_val_raw_t *, size_t);
#endif

_Static_assert(sizeof(wasmtime_func_t) == 16, "wasmtime_func_t");
_Static_assert(sizeof(wasmtime_global_t) == 24, "wasmtime_global_t");
_Static_assert(sizeof(wasmtime_memory_t) == 24, "wasmtime_memory_t");
_Static_assert(sizeof(wasmtime_instance_t) == 16, "wasmtime_instance_t");
_Static_assert(sizeof(wasmtime_externref_t) == 24, "wasmtime_externref_t");
_Static_assert(sizeof(wasmtime_extern_t) == 32, "wasmtime_extern_t");
_Static_assert(offsetof(wasmtime_extern_t, of) == 8, "wasmtime_extern_t.of");
_Static_assert(sizeof(wasmtime_val_t) == 32, "wasmtime_val_t");
_Static_assert(offsetof(wasmtime_val_t, of) == 8, "wasmtime_val_t.of");
_Static_assert(sizeof(wasmtime_val_raw_t) == 16, "wasmtime_val_raw_t");
_Static_assert(WASMTIME_EXTERN_FUNC == 0 && WASMTIME_EXTERN_MEMORY == 3 && WASMTIME_FUNCREF == 5 && WASMTIME_EXTERNREF == 6, "kinds");
_Static_assert(WASMTIME_UPDATE_DEADLINE_CONTINUE == 0, "deadline kinds");

wasm_config_t *wasm_config_new(void);
void wasmtime_config_epoch_interruption_set(wasm_config_t *, bool);
void wasmtime_config_wasm_custom_page_sizes_set(wasm_config_t *, bool);
void wasmtime_config_wasm_exceptions_set(wasm_config_t *, bool);
void wasmtime_config_wasm_function_references_set(wasm_config_t *, bool);
void wasmtime_config_wasm_gc_set(wasm_config_t *, bool);
void wasmtime_config_wasm_memory64_set(wasm_config_t *, bool);
void wasmtime_config_wasm_multi_memory_set(wasm_config_t *, bool);
void wasmtime_config_wasm_relaxed_simd_set(wasm_config_t *, bool);
void wasmtime_config_wasm_stack_switching_set(wasm_config_t *, bool);
void wasmtime_config_wasm_tail_call_set(wasm_config_t *, bool);
void wasmtime_config_wasm_threads_set(wasm_config_t *, bool);
void wasmtime_config_wasm_wide_arithmetic_set(wasm_config_t *, bool);

wasm_engine_t *wasm_engine_new_with_config(wasm_config_t *);
void wasm_engine_delete(wasm_engine_t *);
void wasmtime_engine_increment_epoch(wasm_engine_t *);

wasmtime_error_t *wasmtime_error_new(const char *);
void wasmtime_error_delete(wasmtime_error_t *);
void wasmtime_error_message(const wasmtime_error_t *, wasm_byte_vec_t *out);
void wasm_byte_vec_delete(wasm_byte_vec_t *);

wasm_trap_t *wasmtime_trap_new(const char *, size_t);
bool wasmtime_trap_code(const wasm_trap_t *, uint8_t *code);
void wasm_trap_message(const wasm_trap_t *, wasm_byte_vec_t *out);
void wasm_trap_trace(const wasm_trap_t *, wasm_frame_vec_t *out);
void wasm_trap_delete(wasm_trap_t *);
uint32_t wasm_frame_func_index(const wasm_frame_t *);
size_t wasm_frame_func_offset(const wasm_frame_t *);
void wasm_frame_vec_delete(wasm_frame_vec_t *);

wasmtime_error_t *wasmtime_module_new(wasm_engine_t *, const uint8_t *, size_t, wasmtime_module_t **);
wasmtime_error_t *wasmtime_module_validate(wasm_engine_t *, const uint8_t *, size_t);
wasmtime_error_t *wasmtime_module_serialize(wasmtime_module_t *, wasm_byte_vec_t *out);
wasmtime_error_t *wasmtime_module_deserialize(wasm_engine_t *, const uint8_t *, size_t, wasmtime_module_t **);
void wasmtime_module_delete(wasmtime_module_t *);
void wasmtime_module_imports(const wasmtime_module_t *, wasm_importtype_vec_t *out);
void wasm_importtype_vec_delete(wasm_importtype_vec_t *);
const wasm_externtype_t *wasm_importtype_type(const wasm_importtype_t *);
const wasm_functype_t *wasm_externtype_as_functype_const(const wasm_externtype_t *);

wasmtime_store_t *wasmtime_store_new(wasm_engine_t *, void *data, void (*finalizer)(void *));
void wasmtime_store_delete(wasmtime_store_t *);
wasmtime_context_t *wasmtime_store_context(wasmtime_store_t *);
void wasmtime_store_epoch_deadline_callback(
    wasmtime_store_t *,
    wasmtime_error_t *(*)(wasmtime_context_t *, void *data, uint64_t *delta, wasmtime_update_deadline_kind_t *),
    void *data, void (*finalizer)(void *));
void *wasmtime_context_get_data(const wasmtime_context_t *);
void wasmtime_context_set_epoch_deadline(wasmtime_context_t *, uint64_t ticks);

wasmtime_error_t *wasmtime_instance_new(wasmtime_context_t *, const wasmtime_module_t *, const wasmtime_extern_t *,
                                        size_t, wasmtime_instance_t *, wasm_trap_t **);
bool wasmtime_instance_export_get(wasmtime_context_t *, const wasmtime_instance_t *, const char *, size_t,
                                  wasmtime_extern_t *);

void wasmtime_func_new_unchecked(wasmtime_context_t *, const wasm_functype_t *, wasmtime_func_unchecked_callback_t,
                                 void *env, void (*finalizer)(void *), wasmtime_func_t *);
wasmtime_error_t *wasmtime_func_call_unchecked(wasmtime_context_t *, const wasmtime_func_t *, wasmtime_val_raw_t *,
                                               size_t, wasm_trap_t **);
void wasmtime_func_from_raw(wasmtime_context_t *, void *, wasmtime_func_t *);
void *wasmtime_func_to_raw(wasmtime_context_t *, const wasmtime_func_t *);
bool wasmtime_caller_export_get(wasmtime_caller_t *, const char *, size_t, wasmtime_extern_t *);
wasmtime_context_t *wasmtime_caller_context(wasmtime_caller_t *);

uint8_t *wasmtime_memory_data(const wasmtime_context_t *, const wasmtime_memory_t *);
size_t wasmtime_memory_data_size(const wasmtime_context_t *, const wasmtime_memory_t *);
wasmtime_error_t *wasmtime_memory_grow(wasmtime_context_t *, const wasmtime_memory_t *, uint64_t, uint64_t *);

void wasmtime_global_get(wasmtime_context_t *, const wasmtime_global_t *, wasmtime_val_t *);
wasmtime_error_t *wasmtime_global_set(wasmtime_context_t *, const wasmtime_global_t *, const wasmtime_val_t *);

bool wasmtime_externref_new(wasmtime_context_t *, void *data, void (*finalizer)(void *), wasmtime_externref_t *);
void *wasmtime_externref_data(wasmtime_context_t *, const wasmtime_externref_t *);
void wasmtime_externref_unroot(wasmtime_externref_t *);
void wasmtime_externref_from_raw(wasmtime_context_t *, uint32_t, wasmtime_externref_t *);
uint32_t wasmtime_externref_to_raw(wasmtime_context_t *, const wasmtime_externref_t *);

#endif
