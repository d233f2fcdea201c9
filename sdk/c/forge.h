/* forge.h: write a ForgeOne plugin (ABI forge/1) in C or C++.
 *
 * One header, no library: it needs <stdint.h> alone. Build a reactor for wasm32,
 * with clang and wasm-ld 14 or newer, with or without wasi-libc:
 *
 *   clang --target=wasm32 -O2 -ffreestanding -mbulk-memory -nostdlib \
 *         -Wl,--no-entry -o plugin.wasm plugin.c
 *   clang --target=wasm32-wasi -O2 -mexec-model=reactor -o plugin.wasm plugin.c
 *
 *   #include "forge.h"
 *
 *   FORGE_FUNCTION(hello) {                  // uint32_t hello(uint32_t input_len)
 *       forge_output("hello", 5);
 *       return 0;
 *   }
 *
 * Every effect is a syscall: FORGE_BLOCKED means that nothing happened,
 * FORGE_FAILURE that it was allowed and did not work. A syscall that quarantines
 * the plugin does not return. The syscalls, with arguments and results, are in
 * docs/syscalls.md; the ABI is docs/abi.md.
 */
#ifndef FORGE_H
#define FORGE_H

#include <stdint.h>

#ifdef __cplusplus
#define FORGE_C extern "C"
extern "C" {
#else
#define FORGE_C
#endif

#define FORGE_IMPORT(name) __attribute__((import_module("forge"), import_name(name)))

/* FORGE_FUNCTION defines a function that can be called by its name. It returns
 * 0, or another status for a failure. */
#define FORGE_FUNCTION(name)                                                   \
    FORGE_C __attribute__((export_name(#name))) uint32_t name(uint32_t input_len)

/* FORGE_HOOK defines a lifecycle function: init, start, pause, resume, stop or
 * unload. */
#define FORGE_HOOK(event)                                                      \
    FORGE_C __attribute__((export_name("forge_" #event))) uint32_t forge_on_##event(void)

/* Limits of the ABI, in bytes. Beyond them the host ends the guest. */
enum { FORGE_MAX_NAME = 256, FORGE_MAX_PAYLOAD = 16 << 20 };

/* FORGE_REQUEST_ROOM is how large a syscall's name and arguments can be, with 16
 * bytes and 4 for each argument; at most 65536. */
#ifndef FORGE_REQUEST_ROOM
#define FORGE_REQUEST_ROOM 8192
#endif

/* FORGE_MESSAGE_ROOM is how much is kept of a reason or message. */
#ifndef FORGE_MESSAGE_ROOM
#define FORGE_MESSAGE_ROOM 1024
#endif

/* Codes of failures: Linux errno numbers, on every system. */
enum {
    FORGE_EPERM = 1, FORGE_ENOENT = 2, FORGE_EINTR = 4, FORGE_EIO = 5, FORGE_EBADF = 9, FORGE_EACCES = 13,
    FORGE_EEXIST = 17, FORGE_EINVAL = 22, FORGE_EFBIG = 27, FORGE_ENOSPC = 28, FORGE_EROFS = 30,
    FORGE_EOPNOTSUPP = 95, FORGE_ETIMEDOUT = 110
};

typedef enum { FORGE_OK = 0, FORGE_FAILURE = 1, FORGE_BLOCKED = 2 } forge_status;

/* forge_bytes are bytes that somebody else owns. They may hold zeros. */
typedef struct { const void *ptr; uint32_t len; } forge_bytes;

/* forge_answer is what became of a syscall. */
typedef struct {
    forge_status status;
    int32_t code;        /* of FORGE_FAILURE: a Linux errno number */
    uint32_t len;        /* of FORGE_OK: the whole result; more than the buffer holds is cut */
    forge_bytes message; /* else: the reason, for people; valid until the next syscall */
} forge_answer;

/* The imports. forge_input copies at most cap bytes of the call's input and
 * returns its whole length; the last forge_output and forge_fail win. */
FORGE_IMPORT("input") uint32_t forge_input(void *ptr, uint32_t cap);
FORGE_IMPORT("output") void forge_output(const void *ptr, uint32_t len);
FORGE_IMPORT("fail") void forge_fail(int32_t code, const void *ptr, uint32_t len);
FORGE_IMPORT("syscall") uint64_t forge_raw_syscall(const void *req, uint32_t req_len, const void *payload, uint32_t payload_len, void *buf, uint32_t cap);
FORGE_IMPORT("result") uint32_t forge_raw_result(void *ptr, uint32_t cap);

/* forge_abi answers the host's version with the one that is spoken here, 1.0. */
__attribute__((weak, export_name("forge_abi"))) uint32_t forge_abi(uint32_t host) {
    const uint32_t version = 1u << 16;
    return host >> 16 == version >> 16 && host >= version ? version : 0;
}

/* forge_text is a text that ends with a zero, without it. */
static inline forge_bytes forge_text(const char *s) {
    forge_bytes b = {s, 0};
    while (s[b.len]) b.len++;
    return b;
}

/* What follows up to the helpers is the header's own. Bytes are moved by hand: a
 * plugin need not have a memcpy. */
typedef struct { uint8_t *at, *end; int full; } forge_writer_;

static inline void forge_put_(forge_writer_ *w, const void *src, uint32_t n) {
    const uint8_t *s = (const uint8_t *)src;
    if (w->full || n > (uint32_t)(w->end - w->at)) {
        w->full = 1;
        return;
    }
    while (n--) *w->at++ = *s++;
}

static inline void forge_put_uint_(forge_writer_ *w, uint64_t v, uint32_t size) {
    uint8_t b[8];
    for (uint32_t i = 0; i < size; i++) b[i] = (uint8_t)(v >> (8 * i));
    forge_put_(w, b, size);
}

static inline uint32_t forge_u32_(const uint8_t *b) {
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static inline forge_answer forge_own_(int32_t code, const char *message) {
    forge_answer a = {FORGE_FAILURE, code, 0, forge_text(message)};
    return a;
}

/* forge_syscall asks for an effect by name. args may be 0 if there are none;
 * handle is 0 for none; payload is bulk data. The result goes to buf, at most
 * cap bytes of it. */
static inline forge_answer forge_syscall(const char *name, const forge_bytes *args, uint32_t nargs, uint64_t handle, forge_bytes payload, void *buf, uint32_t cap) {
    static uint8_t request[FORGE_REQUEST_ROOM];
    static uint8_t message[8 + FORGE_MESSAGE_ROOM]; /* a failure's code and length come first */
    forge_writer_ w = {request, request + sizeof request, 0};
    forge_bytes text = forge_text(name);
    if (text.len > FORGE_MAX_NAME || nargs > 0xffff) return forge_own_(FORGE_EINVAL, "the name or the number of arguments is above the ABI's limit");
    if (payload.len > FORGE_MAX_PAYLOAD) return forge_own_(FORGE_EINVAL, "the payload is above the ABI's limit");
    forge_put_uint_(&w, text.len, 2);
    forge_put_(&w, text.ptr, text.len);
    forge_put_uint_(&w, handle, 8);
    forge_put_uint_(&w, nargs, 2);
    for (uint32_t i = 0; i < nargs; i++) {
        forge_put_uint_(&w, args[i].len, 4);
        forge_put_(&w, args[i].ptr, args[i].len);
    }
    if (w.full) return forge_own_(FORGE_EINVAL, "the request is larger than FORGE_REQUEST_ROOM");

    uint64_t raw = forge_raw_syscall(request, (uint32_t)(w.at - request), payload.ptr, payload.len, buf, cap);
    forge_answer a = {(forge_status)(raw >> 32), 0, (uint32_t)raw, {message, 0}};
    if (a.status == FORGE_OK) {
        if (a.len > cap && cap > 0) forge_raw_result(buf, cap);
        return a;
    }
    uint32_t got = forge_raw_result(message, sizeof message);
    if (got > sizeof message) got = sizeof message;
    a.len = 0;
    a.message.len = got;
    if (a.status == FORGE_FAILURE) {
        uint32_t n = got < 8 ? 0 : forge_u32_(message + 4), room = got < 8 ? 0 : got - 8;
        a.code = got < 8 ? FORGE_EIO : (int32_t)forge_u32_(message);
        a.message.ptr = message + 8;
        a.message.len = n < room ? n : room;
    }
    return a;
}

/* forge_refuse makes an answer that is not FORGE_OK the failure of the call, and
 * returns the status to return. */
static inline uint32_t forge_refuse(forge_answer a) {
    forge_fail(a.status == FORGE_BLOCKED ? FORGE_EACCES : a.code, a.message.ptr, a.message.len);
    return 1;
}

/* forge_decimal writes a number as text, as arguments are, into room for 20
 * digits. */
static inline forge_bytes forge_decimal(uint64_t v, char room[20]) {
    uint32_t i = 20;
    do room[--i] = (char)('0' + v % 10); while (v /= 10);
    forge_bytes b = {room + i, 20 - i};
    return b;
}

static const forge_bytes forge_none = {0, 0};

/* forge_file is an open file. */
typedef struct { forge_bytes path; uint64_t handle; } forge_file;

/* forge_open opens a file by its absolute path, which must outlive f; mode is as
 * in fopen. */
static inline forge_answer forge_open(forge_file *f, forge_bytes path, const char *mode) {
    forge_bytes args[2] = {path, forge_text(mode)};
    uint8_t b[8] = {0};
    forge_answer a = forge_syscall("file_open", args, 2, 0, forge_none, b, sizeof b);
    f->path = path;
    f->handle = (uint64_t)forge_u32_(b + 4) << 32 | forge_u32_(b);
    return a;
}

/* forge_read reads at most cap bytes; len is 0 at the end of the file. */
static inline forge_answer forge_read(forge_file *f, void *buf, uint32_t cap) {
    char digits[20];
    forge_bytes args[2] = {f->path, forge_decimal(cap, digits)};
    return forge_syscall("file_read", args, 2, f->handle, forge_none, buf, cap);
}

/* forge_write writes all of data. */
static inline forge_answer forge_write(forge_file *f, forge_bytes data) {
    const uint8_t *at = (const uint8_t *)data.ptr;
    uint32_t left = data.len;
    forge_answer a = {FORGE_OK, 0, 0, {0, 0}};
    while (left > 0) {
        forge_bytes part = {at, left < 262144 ? left : 262144};
        char digits[20];
        uint32_t n = 0;
        a = forge_syscall("file_write", &f->path, 1, f->handle, part, digits, sizeof digits);
        if (a.status != FORGE_OK) return a;
        for (uint32_t i = 0; i < a.len && i < sizeof digits; i++) n = n * 10 + (uint32_t)(digits[i] - '0');
        if (n == 0 || n > part.len) return forge_own_(FORGE_EIO, "file_write: a short write");
        at += n;
        left -= n;
    }
    a.len = data.len;
    return a;
}

static inline forge_answer forge_close(forge_file *f) {
    return forge_syscall("file_close", &f->path, 1, f->handle, forge_none, 0, 0);
}

/* forge_read_file reads a file whole; len is how much that is. One that is
 * larger than cap fails with FORGE_EFBIG. */
static inline forge_answer forge_read_file(forge_bytes path, void *buf, uint32_t cap) {
    forge_file f;
    forge_answer a = forge_open(&f, path, "r");
    uint32_t n = 0;
    uint8_t more;
    if (a.status != FORGE_OK) return a;
    while (n < cap && (a = forge_read(&f, (uint8_t *)buf + n, cap - n < 262144 ? cap - n : 262144)).status == FORGE_OK && a.len > 0) n += a.len;
    if (n == cap && (a = forge_read(&f, &more, 1)).status == FORGE_OK && a.len > 0) a = forge_own_(FORGE_EFBIG, "the file is larger than the buffer");
    if (a.status != FORGE_OK) return a; /* the call's end closes the file */
    a = forge_close(&f);
    a.len = n;
    return a;
}

/* forge_write_file writes a file whole, replacing what was there. */
static inline forge_answer forge_write_file(forge_bytes path, forge_bytes data) {
    forge_file f;
    forge_answer a = forge_open(&f, path, "w");
    if (a.status == FORGE_OK && (a = forge_write(&f, data)).status == FORGE_OK) a = forge_close(&f);
    return a;
}

/* forge_kv_get yields a value of the plugin's own keys; FORGE_ENOENT if there is
 * none. */
static inline forge_answer forge_kv_get(forge_bytes key, void *buf, uint32_t cap) {
    return forge_syscall("kv_get", &key, 1, 0, forge_none, buf, cap);
}

static inline forge_answer forge_kv_put(forge_bytes key, forge_bytes value) {
    return forge_syscall("kv_put", &key, 1, 0, value, 0, 0);
}

/* forge_log writes a line to the kernel's log; level is "debug", "info", "warn"
 * or "error". */
static inline forge_answer forge_log(const char *level, forge_bytes message) {
    forge_bytes args[2] = {forge_text(level), message};
    return forge_syscall("log_write", args, 2, 0, forge_none, 0, 0);
}

/* forge_random fills buf with at most 65536 random bytes. */
static inline forge_answer forge_random(void *buf, uint32_t n) {
    char digits[20];
    forge_bytes args[1] = {forge_decimal(n, digits)};
    return forge_syscall("random_get", args, 1, 0, forge_none, buf, n);
}

#ifdef __cplusplus
}
#endif

#endif
