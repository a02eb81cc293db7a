/* Memory in which pieces are laid out one behind the other, on cache lines. Whoever needs several takes them twice: from
   an arena without memory, which adds up their sizes, and from one with as much. */
#pragma once

#include <stddef.h>

typedef struct {
    char *memory;
    size_t used;
} arena;

static inline size_t cache_lines(size_t bytes) { return (bytes + 63) / 64 * 64; }

static void *take(arena *from, size_t bytes) {
    void *piece = from->memory ? from->memory + from->used : 0;
    from->used += cache_lines(bytes);
    return piece;
}
