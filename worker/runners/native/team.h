/* Threads that go through the stages of a pass together.

   A stage's units are taken in pieces by whoever comes, and the next stage begins when all are done, not when all threads
   have come: one that the system has put aside, because others want the processor too, holds up nobody unless it had a
   piece in hand. With a barrier between stages it would be waited for a hundred times a pass. */
#pragma once

#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "vector.h"

enum { PIECES = 8, SPINS = 4096 };

typedef struct {
    _Alignas(64) atomic_int_fast64_t begun, done, count;
} stage;

/* One thread's way through the stages, which all take in the same order. */
typedef struct {
    stage *stages;  /* [stage_count], all zero before the pass */
    int64_t stage_count, threads, current, awaited;
} member;

typedef struct {
    int64_t begin, end;
} piece;

static stage *take_stages(arena *from, int64_t count) {
    stage *stages = take(from, count * sizeof(stage));
    if (stages) memset(stages, 0, count * sizeof(stage));
    return stages;
}

/* Gives back the piece that was taken before, and takes the next one of a stage of `count` units; 0: none is left. */
static int take_piece(member *t, int64_t count, piece *p) {
    /* More stages than were reserved: what lies behind them is others' memory. */
    if (t->current == t->stage_count) abort();
    stage *s = &t->stages[t->current];
    if (p->end > p->begin)
        atomic_fetch_add_explicit(&s->done, p->end - p->begin, memory_order_release);
    else
        atomic_store_explicit(&s->count, count, memory_order_relaxed);
    const int64_t size = count / (t->threads * PIECES) + 1;
    p->begin = atomic_fetch_add_explicit(&s->begun, size, memory_order_relaxed);
    p->end = p->begin + size < count ? p->begin + size : count;
    if (p->begin < count) return 1;
    t->current++;
    return 0;
}

/* Waits until all stages that this thread has come by are done. */
static void await(member *t) {
    for (; t->awaited < t->current; t->awaited++) {
        stage *s = &t->stages[t->awaited];
        const int64_t count = atomic_load_explicit(&s->count, memory_order_relaxed);
        for (int64_t spins = 1; atomic_load_explicit(&s->done, memory_order_acquire) < count; spins++) {
            rest_a_little();
            if (spins % SPINS == 0) sched_yield();
        }
    }
}

/* Runs what follows for each unit that falls to this thread. */
#define SHARE(unit, count) \
    for (piece unit##_piece = {0, 0}; take_piece(self, count, &unit##_piece);) \
        for (int64_t unit = unit##_piece.begin; unit < unit##_piece.end; unit++)
