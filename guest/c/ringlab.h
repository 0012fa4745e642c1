/* The guest ABI, version 1, for a handler in C without a C library: what ABI.md says, as types.
 *
 *   clang --target=wasm32 -O2 -nostdlib -mbulk-memory -Wl,--no-entry -Wl,--export=ringlab_v1 \
 *         -o hello.wasm hello.c
 *
 * Include it in one file, which has the handler: a function `handle`. It deliberately lacks
 * allocation and state: a request lies in its area, an answer in the handler's own statics. */
#ifndef RINGLAB_H
#define RINGLAB_H

#include <stddef.h>
#include <stdint.h>

/* The longest request in bytes, the table of its header fields included; the host answers 413 to a
 * longer one. Define it before the include for another. */
#ifndef RINGLAB_CAPACITY
#define RINGLAB_CAPACITY (28 * 1024)
#endif

/* A piece of the request: `at` bytes from the request's own start. */
struct ringlab_part {
    uint32_t at, length;
};

struct ringlab_header {
    struct ringlab_part name, value;
};

/* As the host writes it: this first, the headers behind it, then the bytes that the parts name. */
struct ringlab_request {
    uint32_t flags;
    struct ringlab_part method, target, body;
    uint32_t header_count;
    struct ringlab_header headers[];
};

/* The answer, 24 bytes. It and what it points to stay as they are until the next call. */
struct ringlab_record {
    uint16_t kind; /* 0: an answer */
    uint16_t status;
    const char *header_lines; /* each `name: value` CR LF */
    uint32_t header_lines_length;
    const char *body;
    uint32_t body_length;
    uint32_t unused;
};

_Static_assert(sizeof(struct ringlab_request) == 32, "as ABI.md has it");
_Static_assert(sizeof(struct ringlab_record) == 24, "as ABI.md has it");

/* The request area. The linker exports a variable as an immutable global that holds its address,
 * which is what the host looks for. */
struct ringlab_area {
    uint32_t capacity, zero;
    _Alignas(8) unsigned char request[RINGLAB_CAPACITY];
};
struct ringlab_area ringlab_v1 = {RINGLAB_CAPACITY, 0, {0}};

/* The request that is being answered. */
static inline const struct ringlab_request *ringlab_request(void) {
    return (const struct ringlab_request *)ringlab_v1.request;
}

/* The bytes of a part; they end with its length, not with a 0. */
static inline const char *ringlab_bytes(struct ringlab_part part) {
    return (const char *)ringlab_v1.request + part.at;
}

/* What the host calls with the request's length. */
__attribute__((export_name("handle"))) const struct ringlab_record *handle(uint32_t length);

#endif
