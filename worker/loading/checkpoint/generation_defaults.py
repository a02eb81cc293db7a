"""What a model's generation_config.json sets, as defaults for requests.

What transformers' `generate()` takes is taken, and means the same here. What it refuses, only then or only with
sampling, is refused when the model is loaded, as is what would silently mean something else. What has no counterpart
here is named in the log.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal

from transformers import GenerationConfig

from .generation_values import READERS, UnfitError
from .hub import Files

logger = logging.getLogger(__name__)

FILE = "generation_config.json"
_OLD_FILE = "config.json"
"""Where older models have their defaults. transformers looks there if there is no generation_config.json."""

NOT_APPLIED: Mapping[str, tuple[Any, ...]] = {
    "max_length": (20,),
    "min_length": (0,),
    "max_time": (),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "top_h": (),
    "eta_cutoff": (0,),
    "encoder_repetition_penalty": (1,),
    "encoder_no_repeat_ngram_size": (0,),
    "renormalize_logits": (False,),
    "remove_invalid_values": (False,),
    "token_healing": (False,),
    "guidance_scale": (1,),
    "watermarking_config": (),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "diversity_penalty": (0,),
    "num_beam_groups": (1,),
    "constraints": (),
    "force_words_ids": (),
}
"""What would change texts and is not taken, with the values, beside None, that change nothing."""

HARMLESS = frozenset(
    {
        *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "prefill_chunk_size", "low_memory"),
        *("compile_config", "disable_compile", "continuous_batching_config"),
        *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
        # A prompt is never empty, and rows are padded with the tokenizer's token.
        *("pad_token_id", "bos_token_id", "decoder_start_token_id"),
        # Assistants guess what the model would have said.
        *("is_assistant", "use_mtp", "num_assistant_tokens", "num_assistant_tokens_schedule", "speculation_type"),
        *("assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind", "target_lookbehind"),
        *("assistant_ensemble_weight", "prompt_lookup_num_tokens", "max_matching_ngram_size"),
        *("transformers_version", "_from_model_config", "_commit_hash", "_original_object_hash"),
    }
)
"""What says how transformers computes, stores and reports, and changes no text."""

ELSEWHERE = {"sequence_bias": "logit_bias", "eos_token_id": ""}
"""What is taken under another name, or apart from the defaults."""


@dataclass(frozen=True)
class GenerationDefaults:
    """What the model's generation_config.json sets; None: nothing.

    Names and meanings are transformers', but for `logit_bias`. `num_beams` is not among them: a default must not turn a
    stream into a beam search, which has nothing to stream.
    """

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    bad_words_ids: tuple[tuple[int, ...], ...] | None = None
    logit_bias: tuple[tuple[int, float], ...] | None = None
    """Token ids and what is added to their logits: the entries of `sequence_bias` that are of one token."""
    exponential_decay_length_penalty: tuple[int, float] | None = None
    suppress_tokens: tuple[int, ...] | None = None
    begin_suppress_tokens: tuple[int, ...] | None = None
    forced_bos_token_id: int | None = None
    """Of several, the lowest: the one that greedy decoding takes."""
    forced_eos_token_id: int | None = None
    """As above."""
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None
    stop_strings: tuple[str, ...] | None = None

    @classmethod
    def of(
        cls,
        generation_config: Any,  # noqa: ANN401 - its attributes are dynamic
        *,
        vocab_size: int | None = None,
        file: str = FILE,
    ) -> "GenerationDefaults":
        """Reads the attributes of a transformers GenerationConfig.

        Args:
            generation_config: anything with some of its attributes.
            vocab_size: ids that the model has; None if not known.
            file: where the values come from, for errors.

        Raises ValueError for a value that cannot be meant; the message names file, key and value.
        """
        values = _read(vars(generation_config), file)
        biases = values.pop("sequence_bias", ())
        if longer := sum(len(ids) > 1 for ids, _ in biases):
            logger.warning("%s biases %d sequences of several tokens: they are left out", file, longer)
        single = tuple((ids[0], bias) for ids, bias in biases if len(ids) == 1)
        values.pop("eos_token_id", None)
        defaults = cls(**values, logit_bias=single or None)
        return defaults if vocab_size is None else _within(defaults, vocab_size, file)


def read_generation_config(files: Files, *, vocab_size: int | None = None) -> tuple[GenerationDefaults, Any]:
    """Returns a model's defaults, and all that it sets, as an object with attributes of transformers' GenerationConfig.

    Names in the log what is not applied.

    Args:
        files: those of the checkpoint.
        vocab_size: ids that the model has; None if not known.

    Raises Refusal for a file that is no JSON object, and ValueError for a value that cannot be meant; the message names
    file, key and value.
    """
    given = files.read_object(FILE)
    file = _OLD_FILE if given is None else FILE
    if given is not None:
        _read(given, file)
        _loaded(partial(GenerationConfig.from_dict, dict(given)), file)
    else:
        old: Callable[[], Any] = partial(
            GenerationConfig.from_pretrained, files.model, file, _from_model_config=True, **files.source
        )
        given = dict(vars(_loaded(old, file)))
        _read(given, file)
    _tell_what_is_left_out(given, file)
    generation_config = SimpleNamespace(**given)
    return GenerationDefaults.of(generation_config, vocab_size=vocab_size, file=file), generation_config


def eos_token_ids(generation_config: Any, tokenizer: Any) -> tuple[int, ...]:  # noqa: ANN401 - dynamic attributes
    """Returns the ids that end a sequence: those of the generation config, else the tokenizer's.

    Raises ValueError as GenerationDefaults.of.
    """
    ids = _read({"eos_token_id": getattr(generation_config, "eos_token_id", None)}, FILE).get("eos_token_id")
    if ids is None:
        ids = () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
    return tuple(token for token in ids if token >= 0)  # -1 stands for none


def _loaded(load: Callable[[], Any], file: str) -> Any:  # noqa: ANN401 - dynamic attributes
    try:
        return load()
    except OSError:
        raise
    except Exception as error:  # whatever transformers' own checks come upon
        raise ValueError(f"transformers refuses {file}: {error}") from error


def _tell_what_is_left_out(given: Mapping[str, Any], file: str) -> None:
    taken = GenerationDefaults.__dataclass_fields__.keys() | ELSEWHERE.keys()
    left_out = [
        f"{name} {_shown(value)}"
        for name, value in given.items()
        if name in NOT_APPLIED and value is not None and value not in NOT_APPLIED[name]
    ]
    if left_out:
        logger.warning("%s sets %s: not applied here", file, ", ".join(left_out))
    known = taken | NOT_APPLIED.keys() | HARMLESS
    if file == FILE and (unknown := sorted(given.keys() - known)):
        logger.warning("%s sets %s: not known here, and not applied", file, ", ".join(unknown))


def _read(given: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Returns what is set, of what is taken, as plain values."""
    values: dict[str, Any] = {}
    for name, reader in READERS.items():
        value = given.get(name)
        if value is None:
            continue
        try:
            read = reader(value)
        except UnfitError as error:
            raise ValueError(
                f"{file}: {name} is {_shown(value)}, and must be {error}: change it, or remove it"
            ) from None
        if read is not None:
            values[name] = read
    return {name: value for name, value in values.items() if name not in HARMLESS}


def _within(defaults: GenerationDefaults, vocab_size: int, file: str) -> GenerationDefaults:
    """Returns the defaults without suppressing ids that there are not.

    Raises ValueError for others that there are not, which `generate()` fails on.
    """
    named = {
        "bad_words_ids": [token for words in defaults.bad_words_ids or () for token in words],
        "sequence_bias": [token for token, _ in defaults.logit_bias or ()],
        "forced_bos_token_id": [defaults.forced_bos_token_id or 0],
        "forced_eos_token_id": [defaults.forced_eos_token_id or 0],
    }
    for name, ids in named.items():
        if unknown := [token for token in ids if not 0 <= token < vocab_size]:
            raise ValueError(f"{file}: {name} has {unknown[0]}, and the model's ids are 0 to {vocab_size - 1}")
    return replace(
        defaults,
        suppress_tokens=_inside(defaults.suppress_tokens, vocab_size),
        begin_suppress_tokens=_inside(defaults.begin_suppress_tokens, vocab_size),
    )


def _inside(ids: tuple[int, ...] | None, vocab_size: int) -> tuple[int, ...] | None:
    return tuple(token for token in ids or () if 0 <= token < vocab_size) or None


def _shown(value: Any) -> str:  # noqa: ANN401 - whatever JSON can hold
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
