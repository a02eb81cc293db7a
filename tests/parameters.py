"""One table of the generation parameters, which `test_parameters` holds every component to.

Each has them for itself, because components share the protos alone.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Parameter:
    """One field of the proto's GenerationConfig."""

    default: Any
    """The server's, where neither request nor model sets it; None or () for none."""
    good: tuple[Any, ...] = ()
    """Numbers that are allowed, the ends of the range among them."""
    bad: tuple[Any, ...] = ()
    """Numbers just beyond the ends."""
    told: tuple[str, ...] = ()
    """The ends of the range, or the most entries of a list, as every description writes them."""


PARAMETERS = {
    "max_new_tokens": Parameter(256, (1, 99), (0, -5), ("1",)),
    "do_sample": Parameter(False),
    "temperature": Parameter(1.0, (0.0, 100.0), (-0.1, 100.1), ("0", "100")),
    "top_k": Parameter(0, (0, 2**31 - 1), (-1,), ("0",)),
    "top_p": Parameter(1.0, (1e-9, 1.0), (0.0, 1.1), ("0", "1")),
    "min_p": Parameter(0.0, (0.0, 1.0), (-0.1, 1.1), ("0", "1")),
    "repetition_penalty": Parameter(1.0, (1e-9, 100.0), (0.0, 100.1), ("0", "100")),
    "seed": Parameter(None, (0, 2**63 - 1), (-1,), ("0", "2^63 - 1")),
    "typical_p": Parameter(1.0, (1e-9, 1.0), (0.0, -0.1, 1.1), ("0", "1")),
    "epsilon_cutoff": Parameter(0.0, (0.0, 0.999), (-0.1, 1.0), ("0", "below 1")),
    "presence_penalty": Parameter(0.0, (-100.0, 0.0, 100.0), (-100.1, 100.1), ("-100", "100")),
    "frequency_penalty": Parameter(0.0, (-100.0, 0.0, 100.0), (-100.1, 100.1), ("-100", "100")),
    "no_repeat_ngram_size": Parameter(0, (0, 2**31 - 1), (-1,), ("0",)),
    "bad_words_ids": Parameter((), told=("1,024", "1", "64")),
    "logit_bias": Parameter((), told=("-1,000", "1,000", "1,024")),
    "allowed_token_ids": Parameter((), told=("65,536",)),
    "min_new_tokens": Parameter(0, (0, 99), (-1,), ("0", "max_new_tokens")),
    "stop_token_ids": Parameter((), told=("64",)),
    "ignore_eos": Parameter(False),
    "exponential_decay_length_penalty": Parameter(None, told=("0", "100")),
    "num_beams": Parameter(1, (1, 8), (0, -1), ("1",)),
    "length_penalty": Parameter(1.0, (-100.0, 0.0, 100.0), (-100.1, 100.1), ("-100", "100")),
    "early_stopping": Parameter(1, (1, 3), (-1, 4)),
    "suppress_tokens": Parameter((), told=("65,536",)),
    "begin_suppress_tokens": Parameter((), told=("65,536",)),
    "forced_bos_token_id": Parameter(None, (0, 49), (-1, 50)),
    "forced_eos_token_id": Parameter(None, (0, 49), (-1, 50)),
    "num_return_sequences": Parameter(1, (1,), (0, -1), ("1",)),
    "best_of": Parameter(None, (1,), (0, -1)),
    "max_time": Parameter(None, (1e-9, 1e9), (0.0, -1.0), ("0",)),
}
"""By name, in the order of the proto. Token ids are those of a vocabulary of `VOCAB_SIZE`."""

VOCAB_SIZE = 50
MOST_IDS = {
    "stop_token_ids": 64,
    "allowed_token_ids": 65_536,
    "suppress_tokens": 65_536,
    "begin_suppress_tokens": 65_536,
}
"""Most entries of the lists of token ids."""
