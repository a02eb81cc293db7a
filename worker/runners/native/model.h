/* What a model built like Llama is, what a pass reads, and what its stages leave to one another. */
#pragma once

#include "arena.h"
#include "attention.h"
#include "linear.h"

typedef struct {
    const bf16 *input_norm, *post_norm;  /* [width] */
    const bf16 *query_norm, *key_norm;   /* [head_dim], or none */
    linear query, key, value, output, gate, up, down;
    int64_t window;  /* columns that a token sees, itself included; 0: all */
} layer;

typedef struct {
    const layer *layers;
    const bf16 *final_norm;  /* [width] */
    linear head;             /* dense */
    int64_t layer_count, width, inner, heads, key_heads, head_dim;
    float epsilon, scaling;
} model;

/* A token and where it is. */
typedef struct {
    int64_t slab, row, first, column;  /* of its slab; its row begins at column `first` */
} place;

typedef struct {
    int64_t count;
    const place *places;     /* [count] */
    bf16 *hidden;            /* [count][width]: embeddings in, hidden states out */
    const bf16 *cos, *sin;   /* [count][head_dim] */
    const slab *slabs;
    int64_t asked_count;
    const int64_t *asked;    /* [asked_count], tokens whose logits are wanted */
    float *logits;           /* [asked_count][vocabulary] */
} tokens;

/* Tokens that follow one another in a row. */
typedef struct {
    int64_t begin, count;
} run;

/* Between the stages of a layer; each [count][...]. */
typedef struct {
    bf16 *normed, *query, *key, *value, *attended, *gate, *up;
    run *runs;  /* [run_count]: all tokens */
    int64_t run_count;
} activations;

static activations take_activations(arena *from, const model *m, int64_t count) {
    activations a;
    a.normed = take(from, count * m->width * sizeof(bf16));
    a.query = take(from, count * m->heads * m->head_dim * sizeof(bf16));
    a.attended = take(from, count * m->heads * m->head_dim * sizeof(bf16));
    a.key = take(from, count * m->key_heads * m->head_dim * sizeof(bf16));
    a.value = take(from, count * m->key_heads * m->head_dim * sizeof(bf16));
    a.gate = take(from, count * m->inner * sizeof(bf16));
    a.up = take(from, count * m->inner * sizeof(bf16));
    a.runs = take(from, count * sizeof(run));
    a.run_count = 0;
    return a;
}

/* The inputs of the widest layer whose activations are rounded. */
static int64_t widest_rounded(const model *m) {
    int64_t widest = 0;
    for (int64_t index = 0; index < m->layer_count; index++) {
        const layer *l = &m->layers[index];
        const linear *linears[] = {&l->query, &l->key, &l->value, &l->output, &l->gate, &l->up, &l->down};
        for (size_t each = 0; each < sizeof linears / sizeof *linears; each++)
            if (linears[each]->arithmetic != EXACT && linears[each]->inputs > widest) widest = linears[each]->inputs;
    }
    return widest;
}
