/* A plugin in C: it greets whoever the input names, in the words of
 * /data/greeting.txt, and counts the greetings. It needs read_file on that file,
 * kv_get, kv_put and log_write.
 *
 *   clang --target=wasm32 -O2 -ffreestanding -mbulk-memory -nostdlib \
 *         -Wl,--no-entry -I../../../sdk/c -o greet.wasm greet.c
 */
#include "forge.h"

static char output[8192];

static uint32_t append(uint32_t n, forge_bytes b) {
    for (uint32_t i = 0; i < b.len && n < sizeof output; i++) output[n++] = ((const char *)b.ptr)[i];
    return n;
}

/* count adds one to the number of greetings. */
static forge_answer count(void) {
    char digits[20];
    uint64_t n = 0;
    forge_answer a = forge_kv_get(forge_text("greetings"), digits, sizeof digits);
    if (a.status == FORGE_FAILURE && a.code == FORGE_ENOENT) a.status = FORGE_OK; /* the first one: len is 0 */
    if (a.status != FORGE_OK) return a;
    for (uint32_t i = 0; i < a.len && i < sizeof digits; i++) n = n * 10 + (uint64_t)(digits[i] - '0');
    return forge_kv_put(forge_text("greetings"), forge_decimal(n + 1, digits));
}

FORGE_FUNCTION(greet) {
    static char name[1024], greeting[1024];
    if (input_len > sizeof name) {
        forge_bytes why = forge_text("the name is too long");
        forge_fail(FORGE_EINVAL, why.ptr, why.len);
        return 1;
    }
    forge_input(name, sizeof name);

    forge_bytes words = {greeting, 0};
    forge_answer a = forge_read_file(forge_text("/data/greeting.txt"), greeting, sizeof greeting);
    if (a.status == FORGE_BLOCKED) {
        words = forge_text("hello"); /* nothing happened: do without */
    } else if (a.status == FORGE_FAILURE) {
        return forge_refuse(a);
    } else {
        for (words.len = a.len; words.len > 0 && greeting[words.len - 1] == '\n';) words.len--;
    }
    if ((a = count()).status != FORGE_OK) return forge_refuse(a);
    if ((a = forge_log("info", forge_text("greeted"))).status != FORGE_OK) return forge_refuse(a);

    forge_bytes who = {name, input_len};
    uint32_t n = append(append(append(append(0, words), forge_text(", ")), who), forge_text("!"));
    forge_output(output, n);
    return 0;
}
