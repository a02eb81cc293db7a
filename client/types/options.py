"""The keyword arguments that `generate` and `stream` share, in both clients."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from .generation_config import EarlyStopping
from .values import Tool

MAX_TIMEOUT = 1e9
"""Seconds, more than 30 years. From about 7e9 on gRPC's clock overflows, and a call is over at once."""


ToolChoice = Literal["auto", "none"]
"""Whether a model is told of tools: then it decides, or it is not told."""

Priority = Literal["interactive", "default", "batch"]
"""How urgent calls are: interactive ones go before others, and batch ones make way for them."""


class TokenizeOptions(TypedDict, total=False):
    """How to tokenize. What is absent or None is as the server has it; the names are those of `GenerateOptions`."""

    model: str | None
    """Name of the model. Default: the one that is served."""
    tools: Sequence[Tool | Mapping[str, Any]] | None
    """Functions that the model may call, for chat messages."""
    tool_choice: ToolChoice | None
    """Whether the model is told of them."""
    template_arguments: Mapping[str, Any] | None
    """Variables of the model's chat template."""
    continue_last_message: bool | None
    """Goes on with the last message instead of beginning a turn."""


class GenerateOptions(TypedDict, total=False):
    """How to generate. What is absent or None comes from the model's own generation config, then from the server.

    Names and meanings are those of transformers' GenerationConfig where it has them. A value of another type is a
    TypeError, a number that no field holds a ValueError; values outside their range, NaN and infinities are the
    server's to refuse: they raise `InvalidRequestError`.
    """

    model: str | None
    """Name of the model, as `models()` reports it. Default "": the model that the server serves."""
    truncate_prompt: int | None
    """Keeps the last tokens of the prompt, at most this many, at least 1. Default: kept whole, refused if too long."""

    request_id: str | None
    """Name of this request among those of its tenant, at most 128 bytes: `generate` with the name of a call that runs,
    or ended a short while ago at the same gateway, returns that call's result. `stream` refuses it. Default: none."""
    resume_from: Mapping[int, Sequence[int]] | None
    """Token ids that the caller holds of a call that it lost, by candidate index: only what follows them is delivered.
    None of a candidate says that it holds the prompt, as `echo` asks for it. The request must be the same, with the
    seed that the lost call reported."""

    ignored_defaults: Sequence[str] | None
    """Names of options, such as "suppress_tokens" or "stop", for which the model's own default does not apply; "*" is
    all of them. What is given is as it is given. Default: none."""

    # The prompt, where it is chat messages.

    tools: Sequence[Tool | Mapping[str, Any]] | None
    """Functions that the model may call: at most 128. A mapping is one as other libraries have it: `{"type":
    "function", "function": {"name": ..., "description": ..., "parameters": {...}}}`. What the model writes of a call is
    text in the answer: it is not parsed yet. Refused if the model's template knows no tools. Default: none."""
    tool_choice: ToolChoice | None
    """Whether the model is told of the tools. Default: "auto"."""
    template_arguments: Mapping[str, Any] | None
    """Variables of the model's chat template, such as {"enable_thinking": False}. Default: none."""
    continue_last_message: bool | None
    """Goes on with the last message, which must be the assistant's, instead of beginning a turn. Default: False."""

    # Length and end.

    max_new_tokens: int | None
    """Most tokens to generate, at least 1. Refused if it does not fit into the context behind the prompt."""
    min_new_tokens: int | None
    """Least tokens to generate, 0 to max_new_tokens: neither an end-of-sequence token nor a stop comes before."""
    stop: str | Sequence[str] | None
    """Texts that end the generation, none of which is delivered: at most 16, of 1 to 256 bytes of UTF-8 each. A single
    string is one text. Not with beams."""
    stop_token_ids: Sequence[int] | None
    """Token ids that end the generation, beside the model's own: at most 64."""
    include_stop_sequence: bool | None
    """Delivers the stop sequence, or the stop token's text, that ended the generation. Default: False."""
    ignore_eos: bool | None
    """Goes on after the model's end-of-sequence tokens. Default: False."""
    exponential_decay_length_penalty: tuple[int, float] | None
    """Makes the end ever likelier: number of output tokens from which on, at least 0, and base of the growth, above 0,
    at most 100."""
    max_time: float | None
    """Seconds from the request's arrival, above 0, after which the generation ends with what there is."""
    partial_on_deadline: bool | None
    """Ends shortly before the call's timeout with what there is, and finish reason "deadline", where the call would
    raise `DeadlineExceededError`. Default: False."""

    # Sampling.

    do_sample: bool | None
    """Samples if true, else takes the likeliest token. Default: true if temperature is above 0, or top_k, top_p, min_p,
    typical_p or epsilon_cutoff is given; else as the model says."""
    seed: int | None
    """Seed of the random numbers, 0 to 2^63 - 1. Default: chosen by the server, and reported."""
    temperature: float | None
    """Divides the logits before sampling, 0 to 100; 0 is greedy."""
    top_k: int | None
    """Samples among the k likeliest tokens only, at least 0; 0 is off."""
    top_p: float | None
    """Samples among the fewest likeliest tokens with this probability together, above 0, at most 1; 1 is off."""
    min_p: float | None
    """Samples among tokens at least this many times as likely as the likeliest, 0 to 1; 0 is off."""
    typical_p: float | None
    """Samples among the tokens closest to the expected information, the fewest with this probability together, above 0,
    at most 1; 1 is off."""
    epsilon_cutoff: float | None
    """Samples among tokens with at least this probability, 0 to below 1; 0 is off."""

    # Repetition. For greedy decoding, too.

    repetition_penalty: float | None
    """Makes tokens of prompt and output less likely, above 0, at most 100; 1 is off."""
    presence_penalty: float | None
    """Subtracted from the logits of tokens that the output has, -100 to 100; 0 is off."""
    frequency_penalty: float | None
    """Subtracted from a token's logit once for each time that the output has it, -100 to 100; 0 is off."""
    no_repeat_ngram_size: int | None
    """No sequence of this many tokens comes twice in prompt and output, at least 0; 0 is off."""

    # Which tokens may come up. For greedy decoding, too.

    logit_bias: Mapping[int, float] | Sequence[tuple[int, float]] | None
    """Added to the logits of token ids, each -1,000 to 1,000: at most 1,024, as a mapping or as pairs."""
    bad_words_ids: Sequence[Sequence[int]] | None
    """Sequences of token ids that must not come up: at most 1,024, of 1 to 64 ids each."""
    allowed_token_ids: Sequence[int] | None
    """Only these token ids, and those that end a sequence, may come up: at most 65,536. Default: all."""
    suppress_tokens: Sequence[int] | None
    """Token ids that must not come up: at most 65,536."""
    begin_suppress_tokens: Sequence[int] | None
    """Token ids that must not come up as the first token: at most 65,536."""
    forced_bos_token_id: int | None
    """The token that follows a prompt of a single token."""
    forced_eos_token_id: int | None
    """The token to end with when max_new_tokens are reached."""

    # Several candidates. Each takes a row of a worker, as each beam does.

    num_return_sequences: int | None
    """How many candidates to return, at least 1. More than one needs sampling or beams. Default: 1."""
    best_of: int | None
    """How many candidates to sample, of which those with the highest mean log-probability are returned, best first. Not
    with beams; above num_return_sequences not on a stream. Default: num_return_sequences."""
    num_beams: int | None
    """Beam search with this many beams, at least 1; 1 is off. Not on a stream. Default: 1."""
    length_penalty: float | None
    """Power of the length by which a beam's score is divided, -100 to 100; above 0 favours long texts. Default: 1."""
    early_stopping: EarlyStopping | None
    """When beam search ends, once num_beams candidates are finished: True at once, "never" when none can get better at
    any length, False (the default) when none would get better now."""

    # What the answer contains.

    echo: bool | None
    """Puts the decoded prompt before the text. Default: False."""
    token_ids: bool | None
    """Reports the token ids, special ones included; with echo, the prompt's, too. Default: False."""
    skip_special_tokens: bool | None
    """Leaves special tokens out of the text. Default: True."""
    logprobs: bool | None
    """Reports log-probability, rank and text offset of each generated token. Not with beams. Default: False."""
    top_logprobs: int | None
    """Reports this many likeliest tokens beside each reported one, 0 to 20; needs logprobs or prompt_logprobs."""
    prompt_logprobs: bool | None
    """Reports log-probability and rank of each prompt token but the first. Default: False."""


def seconds(timeout: float) -> float:
    """Checks a timeout: above 0 and finite, because a call without a deadline waits forever for a lost server."""
    if not 0 < timeout <= MAX_TIMEOUT:
        raise ValueError(f"timeout must be above 0 and at most {MAX_TIMEOUT:g} seconds, not {timeout!r}")
    return float(timeout)
