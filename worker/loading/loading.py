"""Loads a causal language model and its tokenizer with transformers, the way the tutorial on generation teaches.

Safetensors only, no code from the model's folder, 4-bit unless told otherwise, placed by `device_map`, compute type
always explicit, tokenizer padded on the left, pad token = end of sequence where none is set.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..domain.config import LEAST_CONTEXT, Config
from ..domain.refusal import Refusal, doing
from .checkpoint.generation_defaults import eos_token_ids, read_generation_config
from .checkpoint.hub import Files
from .checkpoint.preflight import check_checkpoint, in_plain_words
from .checkpoint.tokenizer_files import TokenizerFiles, tokenizer_files
from .cpu import CpuCode
from .dispatch import execution_devices, input_device, offload_places
from .facts import ModelFacts, context_length, fingerprint
from .load_report import LoadCost, log_report, log_tokens_beyond
from .quantization.four_bit import check_product
from .quantization.quantization import QuantizationReport
from .weights import load_weights, read_config, read_tokenizer


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to run."""

    model: Any
    """The transformers model."""
    facts: ModelFacts
    tokenizer: TokenizerFiles
    pad_token_id: int
    input_device: torch.device
    """Where token ids go."""
    code: CpuCode | None = None
    """The C code that it was loaded for; the fingerprint tells what its 4-bit layers multiply with."""


def load(config: Config, code: CpuCode | None = None) -> LoadedModel:
    """Loads the model of a config, for a GPU, for the C code on a CPU, or for transformers and bitsandbytes alone.

    Raises:
        Refusal: it cannot be served; the message says why.
        Exception: transformers, or a library under it, could not load it; its notes say what was being done.
    """
    cost = LoadCost()
    files = Files(config)
    settings = check_checkpoint(files)
    with doing("reading config.json"), in_plain_words(settings):
        model_config = read_config(config)
    ids = getattr(model_config.get_text_config(), "vocab_size", None)
    defaults, generation_config = read_generation_config(files, vocab_size=ids)
    with doing("reading the tokenizer"):
        tokenizer = read_tokenizer(config, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    length = _context_length(config, model_config, tokenizer)
    cost.end("tokenizer")
    with doing("loading the weights"), in_plain_words(settings):
        model, report, dtype = load_weights(config, model_config, code)
    _check_products(model, report, dtype)
    cost.end("weights")
    facts = ModelFacts(
        name=config.name or _own_name(config.model),
        architecture=type(model).__name__,
        context_length=length,
        vocab_size=_vocab_size(model),
        quantization=report.quantization,
        quantized_share=report.share,
        fingerprint=fingerprint(model, _arithmetic(report, code), dtype),
        defaults=defaults,
        eos_token_ids=eos_token_ids(generation_config, tokenizer),
        devices=(*(str(device) for device in execution_devices(model)), *offload_places(model)),
    )
    cost.end("fingerprint")
    log_report(facts, report, model, cost)
    log_tokens_beyond(tokenizer, facts.vocab_size)
    return LoadedModel(
        model=model,
        facts=facts,
        tokenizer=tokenizer_files(tokenizer),
        pad_token_id=_pad_token_id(tokenizer, facts),
        input_device=input_device(model),
        code=code,
    )


def _check_products(model: Any, report: QuantizationReport, dtype: torch.dtype) -> None:  # noqa: ANN401 - as above
    kinds = {"nf4", "fp4"} & set(report.quantization.split("+"))
    for device in execution_devices(model):
        for kind in kinds if device.type == "cuda" else ():
            check_product(device, kind, dtype)


def _context_length(config: Config, model_config: Any, tokenizer: Any) -> int:  # noqa: ANN401 - transformers' objects
    length = context_length(model_config, tokenizer, asked=config.context_length)
    if length < LEAST_CONTEXT:
        raise Refusal(
            f"config.json names a context of {length} tokens, which has no room for a prompt and its answer: it takes "
            f"{LEAST_CONTEXT} at least"
        )
    return length


def _arithmetic(report: QuantizationReport, code: CpuCode | None) -> str:
    """Returns what changes results, beside the weights and the compute type."""
    if code is None or code.arithmetic == "exact" or not report.is_4bit:
        return report.arithmetic
    return f"{report.arithmetic} {code.arithmetic} activations"


def _own_name(model: str) -> str:
    """Returns a folder's last part, or a hub name as it is."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def _vocab_size(model: Any) -> int:  # noqa: ANN401 - transformers models share no useful static type
    """Returns the number of ids that can be read and written. A quantized head's weight does not tell: it is packed."""
    head, rows = model.get_output_embeddings(), model.get_input_embeddings().weight.shape[0]
    columns = getattr(head, "out_features", None) or head.weight.shape[0]
    if columns > rows:
        raise ValueError(f"its head writes {columns} token ids, and its embeddings read only {rows}")
    return int(columns)


def _pad_token_id(tokenizer: Any, facts: ModelFacts) -> int:  # noqa: ANN401 - transformers' tokenizers are untyped here
    if tokenizer.pad_token_id is not None and 0 <= tokenizer.pad_token_id < facts.vocab_size:
        return int(tokenizer.pad_token_id)
    return next((token_id for token_id in facts.eos_token_ids if 0 <= token_id < facts.vocab_size), 0)
