"""Looks at a checkpoint's small files before it is loaded, and says what of them nobody could serve.

transformers finds most of this, too, but says it in the words of whatever line of Python stumbled over it. Checked is
what was seen in folders that people hand over; what else is wrong comes out of the loading itself.
"""

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ...domain.refusal import Refusal
from .hub import Files, kind_of, unreachable
from .weight_files import check_weights

logger = logging.getLogger(__name__)

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
_OBJECTS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_ADAPTER = "adapter_config.json"
_TEKKEN = "tekken.json"
_SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model")
_OTHER_TOKENIZERS = ("vocab.json", "vocab.txt", "vocab.bpe", "merges.txt", "dict.txt", "byte_maps.json")

_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "n_embd",
    "n_layer",
    "n_head",
)
_ROPE = ("rope_scaling", "rope_parameters")
_ROPE_NEEDS = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""What a kind of scaling cannot do without."""
_POSITIVE = ("factor", "original_max_position_embeddings", "rope_theta", "partial_rotary_factor")
_ROPE_NUMBERS = (
    *_POSITIVE,
    "low_freq_factor",
    "high_freq_factor",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
)
_TYPES = {
    "int": "an integer",
    "float": "a number with a decimal point",
    "str": "a string",
    "bool": "true or false",
    "NoneType": "null",
    "a list": "a list",
    "dict": "an object",
}
"""Python's types in the words of JSON."""


def check_checkpoint(files: Files) -> Mapping[str, Any]:
    """Returns what the config.json of a checkpoint says.

    Raises:
        Refusal: it cannot be served.
        OSError: the hub does not give it.
    """
    settings = files.read_object(CONFIG)
    if settings is None:
        raise _no_config(files)
    _check_config(settings)
    _check_tokenizer(files)
    check_weights(files, settings)
    return settings


def _no_config(files: Files) -> Refusal:
    """Returns what else a folder without config.json may be."""
    if adapter := files.read_object(_ADAPTER):
        base = adapter.get("base_model_name_or_path") or "a model that it does not name"
        return Refusal(
            f"it is an adapter ({adapter.get('peft_type', 'PEFT')}) of {base}, and no model of its own: serve a model "
            "that it was merged into"
        )
    if files.folder is None:
        return unreachable(files.model) if files.is_offline else Refusal(f"there is no {CONFIG} in it on the hub")
    if gguf := sorted(files.folder.glob("*.gguf")):
        return Refusal(f"it holds {gguf[0].name}, and textserve does not read GGUF: give the model it was made from")
    if files.find("params.json"):
        return Refusal(
            f"it has params.json instead of {CONFIG}: these are weights in their maker's own format, to be converted "
            "to transformers' first"
        )
    return Refusal(f"there is no {CONFIG} in it: it is not the folder of a transformers model")


def _check_config(settings: Mapping[str, Any]) -> None:
    kind = settings.get("model_type")
    if not isinstance(kind, str):
        raise _bad("model_type", settings, "and must name a family of transformers' models")
    if kind not in CONFIG_MAPPING and "auto_map" not in settings:
        raise _bad("model_type", settings, f"which transformers {version('transformers')} does not know")
    has_parts = any(key.endswith("_config") and key != "quantization_config" for key in settings)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and "auto_map" not in settings and not has_parts:
        raise _bad("model_type", settings, "which is a family without causal language models in transformers")
    nested = [value for key, value in settings.items() if key.endswith("_config") and isinstance(value, dict)]
    for section in (settings, *(each for each in nested if each is not settings.get("quantization_config"))):
        _check_sizes(section)
        _check_dtype(section)
        for name in _ROPE:
            _check_rope(name, section.get(name))
    _check_quantization(settings.get("quantization_config"))


def _check_sizes(section: Mapping[str, Any]) -> None:
    for name in _SIZES:
        if isinstance(section.get(name), int) and section[name] < 1:
            raise _bad(name, section, "and must be at least 1")
    # Some families ignore the number of groups, and then it is often that of a larger model.
    heads, groups = section.get("num_attention_heads"), section.get("num_key_value_heads")
    if isinstance(heads, int) and isinstance(groups, int) and groups < heads and heads % groups:
        raise _bad("num_key_value_heads", section, f"which does not divide num_attention_heads, {heads}")


def _check_dtype(section: Mapping[str, Any]) -> None:
    for name in ("torch_dtype", "dtype"):
        stated = section.get(name)
        if stated is None or isinstance(stated, dict):
            continue
        dtype = getattr(torch, stated, None) if isinstance(stated, str) else None
        if dtype not in {torch.bfloat16, torch.float16, torch.float32, torch.float64}:
            raise _bad(name, section, 'and must be "bfloat16", "float16" or "float32"')


def _check_rope(name: str, scaling: Any) -> None:  # noqa: ANN401, C901 - whatever JSON can hold, rule by rule
    if scaling is None:
        return
    if not isinstance(scaling, dict):
        raise Refusal(f"{CONFIG}: {name} is {_shown(scaling)}, and must be an object or null")
    if scaling and all(isinstance(value, dict | None) for value in scaling.values()):  # one for each kind of layer
        for key, value in scaling.items():
            _check_rope(f"{name}.{key}", value)
        return
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if not isinstance(kind, str):
        raise Refusal(f"{CONFIG}: rope_type in {name} is {_shown(kind)}, and must be a string")
    for key in _ROPE_NEEDS.get(kind, ()):
        if key not in scaling:
            raise Refusal(f'{CONFIG}: {name} of type "{kind}" lacks {key}')
    where = f"in {name} "
    for key in (key for key in _ROPE_NUMBERS if key in scaling):
        is_positive = key in _POSITIVE
        if scaling[key] is None and (kind == "yarn" or not is_positive):
            continue  # it is computed from others
        if not _is_number(scaling[key]) or (is_positive and scaling[key] <= 0):
            raise _bad(key, scaling, f"and must be a number{' above 0' if is_positive else ''}", where)
    for key in (key for key in ("short_factor", "long_factor") if key in scaling):
        if not isinstance(scaling[key], list) or not all(map(_is_number, scaling[key])):
            raise _bad(key, scaling, "and must be a list of numbers", where)


def _check_quantization(stated: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
    if stated is None:
        return
    if not isinstance(stated, dict):
        raise Refusal(f"{CONFIG}: quantization_config is {_shown(stated)}, and must be an object")
    where = "in quantization_config "
    for key in ("load_in_4bit", "load_in_8bit"):
        if not isinstance(stated.get(key), bool | None):
            raise _bad(key, stated, "and must be true or false", where)
    if stated.get("load_in_4bit") and stated.get("load_in_8bit"):
        raise Refusal(f"{CONFIG}: load_in_4bit and load_in_8bit in quantization_config exclude each other")
    if stated.get("bnb_4bit_quant_type", "nf4") not in ("nf4", "fp4"):
        raise _bad("bnb_4bit_quant_type", stated, 'and must be "nf4" or "fp4"', where)
    for key in ("bnb_4bit_compute_dtype", "bnb_4bit_quant_storage"):
        value = stated.get(key)
        if value is not None and not (isinstance(value, str) and isinstance(getattr(torch, value, None), torch.dtype)):
            raise _bad(key, stated, 'and must be a type of torch, such as "bfloat16"', where)


def _check_tokenizer(files: Files) -> None:
    settings: dict[str, Any] = {}
    for name in _OBJECTS:
        read = files.read_object(name) or {}
        settings = settings or read  # tokenizer_config.json comes first
    _check_tokenizer_settings(settings)
    if template := files.find("chat_template.jinja"):
        try:
            template.read_text("utf-8")
        except ValueError as error:
            raise Refusal(f"chat_template.jinja is no text in UTF-8: {error}") from error
    if (backend := files.read_object(TOKENIZER)) is not None:
        if not isinstance(backend.get("model"), dict):
            raise Refusal(f"{TOKENIZER} has no model, so it is no tokenizer of the tokenizers library")
        return
    if pieces := _pieces(files):
        _check_pieces(pieces)
    elif files.find(_TEKKEN):
        if find_spec("mistral_common") is None:
            raise Refusal(
                f"its tokenizer is {_TEKKEN} alone, which only mistral-common reads: make a {TOKENIZER} of it, with "
                "AutoTokenizer.from_pretrained and save_pretrained where that package is installed, or install it here"
            )
    elif not any(map(files.find, _OTHER_TOKENIZERS)):
        raise Refusal(
            f"it has no tokenizer: neither {TOKENIZER} nor tokenizer.model is there; copy them from the model that "
            "it was made from"
        )


def _check_tokenizer_settings(settings: Mapping[str, Any]) -> None:
    name = "tokenizer_config.json"
    kinds: dict[str, tuple[type[Any] | Any, str]] = {
        "tokenizer_class": (str, "a string"),
        "added_tokens_decoder": (dict, "an object"),
        "chat_template": (str | list | dict, "a string, or a list of named templates"),
        "eos_token": (str | dict, "a string"),
        "bos_token": (str | dict, "a string"),
        "pad_token": (str | dict, "a string"),
        "unk_token": (str | dict, "a string"),
        "additional_special_tokens": (list | dict, "a list"),
        "extra_special_tokens": (list | dict, "a list"),
    }
    for key, (kind, words) in kinds.items():
        value = settings.get(key)
        if value is not None and not isinstance(value, kind):
            raise Refusal(f"{name}: {key} is {_shown(value)}, and must be {words}")
    templates = settings.get("chat_template")
    named = templates if isinstance(templates, list) else []
    if not all(isinstance(each, dict) and {"name", "template"} <= each.keys() for each in named):
        raise Refusal(f"{name}: chat_template is a list, and each of its entries must have a name and a template")


def _pieces(files: Files) -> Path | None:
    return next((path for name in _SENTENCEPIECE if (path := files.find(name))), None)


def _check_pieces(path: Path) -> None:
    """Raises Refusal for a file that is no model of SentencePiece; transformers would take it for one of tiktoken."""
    content = path.read_bytes()
    if re.match(rb"[A-Za-z0-9+/]+=* \d+\r?\n", content):
        raise Refusal(
            f"{path.name} is in the format of tiktoken, which textserve does not read: make a {TOKENIZER} of it, with "
            "AutoTokenizer.from_pretrained and save_pretrained where the package tiktoken is installed"
        )
    _piece_ids(path, "")


def _piece_ids(path: Path, text: str) -> list[int]:
    """Returns the ids that SentencePiece itself has for a text."""
    try:
        from sentencepiece import SentencePieceProcessor  # noqa: PLC0415 - few models need it

        pieces: Any = SentencePieceProcessor()
        pieces.LoadFromSerializedProto(path.read_bytes())
        ids: list[int] = pieces.EncodeAsIds(text)
    except ImportError as error:
        raise Refusal(f"{path.name} needs the package sentencepiece: pip install 'textserve[worker]'") from error
    except RuntimeError as error:
        raise Refusal(f"{path.name} is no model of SentencePiece: download it again") from error
    return ids


def check_vocabulary(files: Files, tokenizer: Any) -> None:  # noqa: ANN401 - transformers' tokenizers are untyped here
    """Raises Refusal for a vocabulary that is not from a file: a tokenizer's class makes one up where it finds none."""
    name, backend = type(tokenizer).__name__, getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise Refusal(f"{name} has no `tokenizers` backend that could be sent to a gateway")
    if files.find(TOKENIZER):
        if not backend.get_vocab_size(with_added_tokens=False):
            raise Refusal(f"{TOKENIZER} has an empty vocabulary: copy it from the model that this one was made from")
        return
    if not tokenizer.init_kwargs.get("vocab_file"):
        wanted = " or ".join(dict.fromkeys((TOKENIZER, *type(tokenizer).vocab_files_names.values())))
        raise Refusal(f"it has no tokenizer: {name} needs {wanted}; copy them from the model that it was made from")
    pieces, text = _pieces(files), "one two"
    if pieces and tokenizer(text, add_special_tokens=False)["input_ids"] != _piece_ids(pieces, text):
        logger.warning(
            "%s is read as a %s, which splits text otherwise than the file itself: name the model's own class as "
            "tokenizer_class in tokenizer_config.json, such as LlamaTokenizer, if answers are poor",
            pieces.name,
            name,
        )


@contextmanager
def in_plain_words(settings: Mapping[str, Any]) -> Iterator[None]:
    """Says which key of config.json it was, where an exception of transformers' is about one of its values."""
    try:
        yield
    except StrictDataclassFieldValidationError as error:
        raise _wrong_type(str(error), settings) from error
    except StrictDataclassClassValidationError as error:
        raise Refusal(f"{CONFIG}: {error.__cause__ or error}") from error
    except (KeyError, AttributeError) as error:
        unknown = error.args[0] if isinstance(error, KeyError) and error.args else None
        if (key := _key_of(unknown, settings)) is None:
            raise
        raise Refusal(
            f"{CONFIG}: {key} is {_shown(unknown)}, which transformers {version('transformers')} does not know"
        ) from error


def _wrong_type(text: str, settings: Mapping[str, Any]) -> Refusal:
    key = next(iter(re.findall(r"field '(\w+)'", text)), "a key")
    section = next((part for part in _sections(settings) if key in part), {})
    expected = dict.fromkeys(re.findall(r"expected (a list|\w+)", text))
    words = [_TYPES[name] for name in expected if name in _TYPES]
    return _bad(key, section, f"and must be {' or '.join(words)}" if words else "which transformers does not take")


def _sections(settings: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield settings
    for value in settings.values():
        if isinstance(value, dict):
            yield from _sections(value)


def _key_of(value: object, settings: Mapping[str, Any]) -> str | None:
    pairs = (pair for section in _sections(settings) for pair in section.items())
    return next((key for key, each in pairs if isinstance(value, str) and each == value), None)


def _bad(key: str, section: Mapping[str, Any], why: str, where: str = "") -> Refusal:
    return Refusal(f"{CONFIG}: {key} {where}is {_shown(section[key]) if key in section else 'missing'}, {why}")


def _shown(value: Any) -> str:  # noqa: ANN401 - whatever JSON can hold
    text = json.dumps(value)
    return text if len(text) < 60 else f"{kind_of(value)} ({text[:50]} ...)"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
