/* The parts of models that are built like Llama, what a pass reads, and what its stages leave to one another. */
#pragma once

#include "arena.h"
#include "attention.h"
#include "linear.h"

/* What a norm multiplies a normalized value with, its weight or one more than that, and whether it rounds the value first. */
enum norm_kind { ROUNDED_FIRST, ROUNDED_LAST, PLUS_ONE };

enum gate_kind { SILU, GELU_TANH };

/* Norms of a whole layer are [width], or none. */
typedef struct {
    const bf16 *input_norm, *network_norm;  /* of what attention and the network read */
    const bf16 *attended_norm, *fed_norm;   /* of what they add */
    const bf16 *query_norm, *key_norm;      /* [head_dim], or none; of all heads together if norms_all_heads */
    linear query, key, value, output, gate, up, down;
    int64_t window;    /* columns that a token sees, itself included; 0: all */
    int64_t rotation;  /* which cosines and sines */
} layer;

typedef struct {
    const layer *layers;
    const bf16 *final_norm;  /* [width] */
    linear head;             /* dense */
    int64_t layer_count, width, inner, heads, key_heads, head_dim;
    int64_t norm_kind, norms_all_heads, gate_kind;
    float epsilon, scaling;
    float score_cap, logit_cap;  /* 0: none */
} model;

/* A token and where it is. */
typedef struct {
    int64_t slab, row, first, column;  /* of its slab; its row begins at column `first` */
} place;

typedef struct {
    int64_t count;
    const place *places;     /* [count] */
    bf16 *hidden;            /* [count][width]: embeddings in, hidden states out */
    const bf16 *cos, *sin;   /* [rotations][count][head_dim] */
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
