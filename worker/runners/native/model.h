/* The parts of models, what a pass reads, and what its stages leave to one another. */
#pragma once

#include "arena.h"
#include "attention.h"
#include "linear.h"

/* What a norm multiplies a normalized value with, its weight or one more than that, and whether it rounds the value first.
   A centered one, LayerNorm, takes the mean away and adds a bias; the others are RMSNorm. */
enum norm_kind { ROUNDED_FIRST, ROUNDED_LAST, PLUS_ONE, CENTERED };

/* Norms of queries and keys: each head by itself, with the weights of all or its own; or all heads together. */
enum head_norms { ALIKE, TOGETHER, OWN };

enum gate_kind { SILU, GELU_TANH, GELU, RELU };

/* No weight: no norm. */
typedef struct {
    const bf16 *weight, *bias;  /* bias: or none */
} norm;

/* Networks of which each token goes through a few, those that its router prefers. */
typedef struct {
    linear router;                     /* an output for each expert; none: there are no experts */
    linear gate, up, down;             /* of the first expert; dense */
    int64_t gate_stride, down_stride;  /* weights from one expert to the next: of gate and up, and of down */
    int64_t chosen;                    /* experts for each token */
    int64_t is_divided;                /* whether the shares of the chosen are divided by their sum */
    linear shared_gate;                /* one output, by which the network that all tokens go through counts; or none */
} experts;

/* Norms of a whole layer are [width]. */
typedef struct {
    norm input_norm, network_norm;  /* of what attention and the network read */
    norm attended_norm, fed_norm;   /* of what they add */
    norm query_norm, key_norm;      /* [head_dim], or of all heads, as head_norms says */
    linear query, key, value;       /* query alone, if is_interleaved */
    linear output;
    linear gate, up, down;          /* up: none, if what the activation gives is not multiplied; all: none but experts */
    experts experts;
    int64_t window;    /* columns that a token sees, itself included; 0: all */
    int64_t rotation;  /* which cosines and sines */
} layer;

typedef struct {
    const layer *layers;
    norm final_norm;  /* [width] */
    linear head;      /* dense */
    int64_t layer_count, width, inner, heads, key_heads, head_dim;
    int64_t norm_kind, head_norms, gate_kind;
    int64_t rotary_dim;      /* dimensions of a head that rotate, from the first on; 0: none do */
    int64_t is_interleaved;  /* whether one projection has, for each head of keys, its queries, itself and its values */
    int64_t is_parallel;     /* whether the network reads what the layer does, not what attention has added to it */
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
    const bf16 *cos, *sin;   /* [rotations][count][rotary_dim] */
    const slab *slabs;
    int64_t asked_count;
    const int64_t *asked;    /* [asked_count], tokens whose logits are wanted */
    float *logits;           /* [asked_count][vocabulary] */
} tokens;

/* Tokens that follow one another in a row. */
typedef struct {
    int64_t begin, count;
} run;

/* Which experts tokens go through; a slot is a token's place in the list of all that go through some expert. */
typedef struct {
    bf16 *scores;           /* [count][experts] */
    float *shares;          /* [count][experts] */
    int64_t *chosen;        /* [count][chosen] */
    int64_t *slots;         /* [count][chosen] */
    int64_t *begins;        /* [experts + 1]: the first slot of each */
    int64_t *active;        /* those that any token goes through */
    int64_t *active_counts; /* [layers]: a thread that was put aside may ask when others are in another layer */
    bf16 *given, *gate, *up, *gained;  /* [count * chosen][...], by slots */
    bf16 *shared_scores;    /* [count] */
} routes;

/* Between the stages of a layer; each [count][...]. */
typedef struct {
    bf16 *normed, *packed, *query, *key, *value, *attended, *gate, *up;
    bf16 *added;  /* what attention gives, if the network is parallel; or what all tokens go through, beside experts */
    routes routes;
    run *runs;  /* [run_count]: all tokens */
    int64_t run_count;
} activations;

static int64_t larger_of(int64_t a, int64_t b) { return a > b ? a : b; }

/* The most experts, chosen ones and outputs of a gate, of all layers. */
static experts widest_experts(const model *m) {
    experts widest = {0};
    for (int64_t index = 0; index < m->layer_count; index++) {
        const experts *each = &m->layers[index].experts;
        widest.router.outputs = larger_of(widest.router.outputs, each->router.outputs);
        widest.gate.outputs = larger_of(widest.gate.outputs, each->gate.outputs);
        widest.chosen = larger_of(widest.chosen, each->chosen);
    }
    return widest;
}

static routes take_routes(arena *from, const model *m, int64_t count) {
    const experts widest = widest_experts(m);
    const int64_t slots = count * widest.chosen, all = widest.router.outputs;
    routes r;
    r.scores = take(from, count * all * sizeof(bf16));
    r.shares = take(from, count * all * sizeof(float));
    r.chosen = take(from, slots * sizeof(int64_t));
    r.slots = take(from, slots * sizeof(int64_t));
    r.begins = take(from, (all + 1) * sizeof(int64_t));
    r.active = take(from, all * sizeof(int64_t));
    r.active_counts = take(from, m->layer_count * sizeof(int64_t));
    r.given = take(from, slots * m->width * sizeof(bf16));
    r.gate = take(from, slots * widest.gate.outputs * sizeof(bf16));
    r.up = take(from, slots * widest.gate.outputs * sizeof(bf16));
    r.gained = take(from, slots * m->width * sizeof(bf16));
    r.shared_scores = take(from, all ? count * sizeof(bf16) : 0);
    return r;
}

static activations take_activations(arena *from, const model *m, int64_t count) {
    activations a;
    a.normed = take(from, count * m->width * sizeof(bf16));
    a.packed = take(from, m->is_interleaved ? count * (m->heads + 2 * m->key_heads) * m->head_dim * sizeof(bf16) : 0);
    a.query = take(from, count * m->heads * m->head_dim * sizeof(bf16));
    a.attended = take(from, count * m->heads * m->head_dim * sizeof(bf16));
    a.key = take(from, count * m->key_heads * m->head_dim * sizeof(bf16));
    a.value = take(from, count * m->key_heads * m->head_dim * sizeof(bf16));
    a.gate = take(from, count * m->inner * sizeof(bf16));
    a.up = take(from, count * m->inner * sizeof(bf16));
    const int has_two = m->is_parallel || widest_experts(m).chosen;
    a.added = take(from, has_two ? count * m->width * sizeof(bf16) : 0);
    a.routes = take_routes(from, m, count);
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
