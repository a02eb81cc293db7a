/* What stands between the projections of a network. */
#pragma once

#include "model.h"
#include "vector.h"

/* x times the share of a normal distribution that lies below it: what lies beyond |x| is e to the -x^2 / 2 times a
   polynomial, off by 1.5e-7 at most (Abramowitz and Stegun, 7.1.26). */
INLINE floats gelu(floats x) {
    const floats size = larger(x, minus(zeros(), x));
    const floats near = over(all(1.0f), plus(all(1.0f), times(all(0.231641888f), size)));
    floats beyond = all(0.5307027145f);
    beyond = plus_product(beyond, near, all(-0.7265760135f));
    beyond = plus_product(beyond, near, all(0.7107068705f));
    beyond = plus_product(beyond, near, all(-0.142248368f));
    beyond = plus_product(beyond, near, all(0.127414796f));
    beyond = times(times(beyond, near), exponential(times(all(-0.5f), times(x, x))));
    return minus(larger(zeros(), x), times(size, beyond));
}

/* SiLU is x times its sigmoid; GELU, by the tangent, x times that of 2 sqrt(2 / pi) (x + 0.044715 x^3). */
INLINE floats activated(int64_t kind, floats x) {
    if (kind == RELU) return larger(zeros(), x);
    if (kind == GELU) return gelu(x);
    const floats cube = times(x, times(x, x));
    const floats z = kind == SILU ? x : times(all(1.59576912f), plus(x, times(all(0.044715f), cube)));
    return over(x, plus(all(1.0f), exponential(minus(zeros(), z))));
}

/* Puts the activations in the place of what gates give, multiplied with what lies above them if anything does. */
static void activate(int64_t kind, bf16 *gate, const bf16 *up, int64_t count) {
    for (int64_t i = 0; i < count; i += WIDTH) {
        const floats value = activated(kind, load(gate + i));
        store(gate + i, up ? times(rounded(value), load(up + i)) : value);
    }
}
