"""The parameters that a generation ran with, as a frozen value."""

from dataclasses import dataclass
from typing import Literal

EarlyStopping = bool | Literal["never"]
"""When beam search ends, in transformers' words."""


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """Effective parameters, as an answer's receipt and a model's defaults report them.

    Each field is the option of the same name, explained in `GenerateOptions`. None, or an empty tuple, stands where
    the server names no value, so that a request with all of them is the same request again:

        client.generate(prompt, **dataclasses.asdict(answer.config))
    """

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool | None = None
    exponential_decay_length_penalty: tuple[int, float] | None = None
    max_time: float | None = None

    do_sample: bool | None = None
    seed: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None

    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    no_repeat_ngram_size: int | None = None

    logit_bias: tuple[tuple[int, float], ...] = ()
    """Pairs of token id and bias, by id."""
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None

    num_return_sequences: int | None = None
    best_of: int | None = None
    num_beams: int | None = None
    length_penalty: float | None = None
    early_stopping: EarlyStopping | None = None
