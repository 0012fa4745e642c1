/* A request handler in C: answers /?name=Ada with "Hello, Ada, from C".
 *
 * scripts/guests.sh builds it. There is no C library: clang makes WebAssembly instructions of
 * __builtin_memcpy and __builtin_memset, and the rest is written out. */
#include "ringlab.h"

static const char GREETING[] = "Hello, ";
static const char FROM[] = ", from C\n";
static const char UNKNOWN[] = "Who are you? Ask for /?name=...\n";
static const char TOO_LONG[] = "That name is too long\n";
static const char HEADER_LINES[] = "content-type: text/plain\r\n";

/* Longest name that is greeted, in bytes. */
#define NAME_BYTES 64

static char text[sizeof GREETING + NAME_BYTES + sizeof FROM];

static const struct ringlab_record *answer(uint16_t status, const char *body, uint32_t length) {
    static struct ringlab_record record;
    record.status = status;
    record.header_lines = HEADER_LINES;
    record.header_lines_length = sizeof HEADER_LINES - 1;
    record.body = body;
    record.body_length = length;
    return &record;
}

/* The value of `name` in the target's query, as sent; a length of 0 if there is none. */
static struct ringlab_part find_name(struct ringlab_part target) {
    static const char KEY[] = "name=";
    const char *bytes = ringlab_bytes(target);
    struct ringlab_part found = {target.at, 0};
    /* A parameter begins behind a question mark or an ampersand. */
    for (uint32_t i = 0; i < target.length; i++) {
        if (bytes[i] != '?' && bytes[i] != '&')
            continue;
        uint32_t matched = 0;
        while (matched < sizeof KEY - 1 && i + 1 + matched < target.length &&
               bytes[i + 1 + matched] == KEY[matched])
            matched++;
        if (matched < sizeof KEY - 1)
            continue;
        uint32_t from = i + sizeof KEY, to = from;
        while (to < target.length && bytes[to] != '&')
            to++;
        found.at = target.at + from;
        found.length = to - from;
        return found;
    }
    return found;
}

const struct ringlab_record *handle(uint32_t length) {
    (void)length; /* the request says where everything is */
    struct ringlab_part name = find_name(ringlab_request()->target);
    if (name.length == 0)
        return answer(400, UNKNOWN, sizeof UNKNOWN - 1);
    if (name.length > NAME_BYTES)
        return answer(400, TOO_LONG, sizeof TOO_LONG - 1);
    char *end = text;
    __builtin_memcpy(end, GREETING, sizeof GREETING - 1);
    end += sizeof GREETING - 1;
    __builtin_memcpy(end, ringlab_bytes(name), name.length);
    end += name.length;
    __builtin_memcpy(end, FROM, sizeof FROM - 1);
    end += sizeof FROM - 1;
    return answer(200, text, (uint32_t)(end - text));
}
