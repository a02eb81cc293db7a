"""The keyword arguments that `generate` and `stream` share, in both clients."""

from collections.abc import Sequence
from typing import TypedDict

MAX_TIMEOUT = 1e9
"""Seconds, more than 30 years. From about 7e9 on gRPC's clock overflows, and a call is over at once."""


class GenerateOptions(TypedDict, total=False):
    """How to generate. What is absent or None comes from the model's own generation config, then from the server.

    Values outside their range, NaN and infinities are the server's to refuse: they raise `InvalidRequestError`.
    """

    model: str
    """Name of the model, as `models()` reports it. Default "": the model that the server serves."""
    max_new_tokens: int | None
    """Most tokens to generate, at least 1. Refused if it does not fit into the context behind the prompt."""
    do_sample: bool | None
    """Samples if true, else takes the likeliest token. Default: true if temperature is above 0, or top_k, top_p or
    min_p is given; else as the model says."""
    temperature: float | None
    """Divides the logits before sampling, 0 to 100; 0 is greedy."""
    top_k: int | None
    """Samples among the k likeliest tokens only, at least 0; 0 is off."""
    top_p: float | None
    """Samples among the fewest likeliest tokens with this probability together, above 0, at most 1; 1 is off."""
    min_p: float | None
    """Samples among tokens at least this many times as likely as the likeliest, 0 to 1; 0 is off."""
    repetition_penalty: float | None
    """Makes tokens of prompt and output less likely, above 0, at most 100; 1 is off. For greedy decoding, too."""
    seed: int | None
    """Seed of the random numbers, 0 to 2^63 - 1. Default: chosen by the server, and reported."""
    stop: str | Sequence[str]
    """Texts that end the generation, none of which is delivered: at most 16, of 1 to 256 bytes of UTF-8 each. A single
    string is one text."""
    echo: bool
    """Puts the decoded prompt before the text. Default: False."""
    token_ids: bool
    """Reports the token ids, special ones included; with echo, the prompt's, too. Default: False."""
    skip_special_tokens: bool
    """Leaves special tokens out of the text. Default: True."""


def seconds(timeout: float) -> float:
    """Checks a timeout: above 0 and finite, because a call without a deadline waits forever for a lost server."""
    if not 0 < timeout <= MAX_TIMEOUT:
        raise ValueError(f"timeout must be above 0 and at most {MAX_TIMEOUT:g} seconds, not {timeout!r}")
    return float(timeout)
