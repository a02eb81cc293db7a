"""Mistakes to plant into what the C code is told: a comparison that they do not disturb shows nothing."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.worker.runners.native.models import (
    EXPERTS,
    GEMMA_2,
    GEMMA_3,
    GPT_2,
    GPT_NEOX,
    OLMO_2,
    PHI,
    QWEN_2_MOE,
    STABLE_LM,
    STABLE_LM_2,
    STARCODER_2,
)
from worker.loading.cpu_level import Arithmetic
from worker.memory.batch import Batch
from worker.runners.native.anatomy import Anatomy
from worker.runners.native.description import Description
from worker.runners.native.structures import Linear, Norm
from worker.runners.native.token_list import Place, TokenList
from worker.runners.runner import Prefill


@dataclass(frozen=True)
class Mistake:
    """What to put in the place of a method, with `monkeypatch.setattr(owner, attribute, replacement)`."""

    name: str
    owner: type
    attribute: str
    replacement: Callable[..., Any] | property
    family: str = "LlamaConfig"
    """What shows it."""
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def _in_batch(change: Callable[[Place], Place]) -> Callable[..., None]:
    def add_batch(self: TokenList, batch: Batch, tokens: list[int], slab: int) -> None:
        before = len(self.places)
        _add_batch(self, batch, tokens, slab)
        self.places[before:] = map(change, self.places[before:])

    return add_batch


def _in_chunk(change: Callable[[Place], Place]) -> Callable[..., None]:
    def add_chunk(self: TokenList, prefill: Prefill, slab: int) -> None:
        before = len(self.places)
        _add_chunk(self, prefill, slab)
        self.places[before:] = map(change, self.places[before:])

    return add_chunk


def _forgets_the_first(place: Place) -> Place:
    slab, row, first, column = place
    return slab, row, min(first + 1, column), column


def _sees_padding(place: Place) -> Place:
    slab, row, first, column = place
    return slab, row, max(first - 1, 0), column


def _is_in_the_first_row(place: Place) -> Place:
    return place[0], 0, place[2], place[3]


def _ask_one_earlier(self: TokenList, prefill: Prefill, slab: int) -> None:
    before = len(self.asked)
    _add_chunk(self, prefill, slab)
    self.asked[before:] = [max(token - 1, 0) for token in self.asked[before:]]


def _with_window(change: int) -> Callable[..., None]:
    def __init__(self: Description, model: Any, *arithmetic: Arithmetic) -> None:  # noqa: N807 - it takes the place of one
        _describe(self, model, *arithmetic)
        for layer in self._layers:
            layer.window += change if layer.window else 0

    return __init__


def _without(*fields: str) -> Callable[..., None]:
    def __init__(self: Description, model: Any, *arithmetic: Arithmetic) -> None:  # noqa: N807 - it takes the place of one
        _describe(self, model, *arithmetic)
        for layer in self._layers:
            for name in fields:
                setattr(layer, name, Norm())

    return __init__


def _without_biases(*fields: str) -> Callable[..., None]:
    def __init__(self: Description, model: Any, *arithmetic: Arithmetic) -> None:  # noqa: N807 - it takes the place of one
        _describe(self, model, *arithmetic)
        for layer in self._layers:
            for name in fields:
                getattr(layer, name).bias = None

    return __init__


def _without_biases_of_head(self: Description, model: Any, *arithmetic: Arithmetic) -> None:
    _describe(self, model, *arithmetic)
    self.structure.head.bias = None


def _multiplied_with_itself(self: Description, model: Any, *arithmetic: Arithmetic) -> None:
    _describe(self, model, *arithmetic)
    for layer in self._layers:
        layer.up = layer.gate


def _with_experts(**fields: Any) -> Callable[..., None]:
    def __init__(self: Description, model: Any, *arithmetic: Arithmetic) -> None:  # noqa: N807 - it takes the place of one
        _describe(self, model, *arithmetic)
        for layer in self._layers:
            for name, value in fields.items():
                setattr(layer.experts, name, value)

    return __init__


def _without_positions(self: Anatomy, model: Any) -> None:
    _dissect(self, model)
    self.positions = None


def _with_parts(**changes: Any) -> Callable[..., None]:
    def __init__(self: Anatomy, model: Any) -> None:  # noqa: N807 - it takes the place of one
        _dissect(self, model)
        self.parts = replace(self.parts, **changes)

    return __init__


def _with(**fields: float) -> Callable[..., None]:
    def __init__(self: Description, model: Any, *arithmetic: Arithmetic) -> None:  # noqa: N807 - it takes the place of one
        _describe(self, model, *arithmetic)
        for name, value in fields.items():
            setattr(self.structure, name, value)

    return __init__


def _with_one_rotation(self: Description, model: Any, *arithmetic: Arithmetic) -> None:
    _describe(self, model, *arithmetic)
    for layer in self._layers:
        layer.rotation = 0


def _scaled_wrongly(self: Description, model: Any, *arithmetic: Arithmetic) -> None:
    _describe(self, model, *arithmetic)
    self.structure.scaling *= 1.1


_add_batch, _add_chunk, _describe = TokenList.add_batch, TokenList.add_chunk, Description.__init__
_dissect = Anatomy.__init__
SLIDING = {"sliding_window": 12}

MISTAKES = (
    Mistake("a row forgets its first token", TokenList, "add_batch", _in_batch(_forgets_the_first)),
    Mistake("a prompt forgets its first token", TokenList, "add_chunk", _in_chunk(_forgets_the_first)),
    Mistake("a row sees padding", TokenList, "add_batch", _in_batch(_sees_padding)),
    Mistake("a prompt sees padding", TokenList, "add_chunk", _in_chunk(_sees_padding)),
    Mistake("all rows in the first", TokenList, "add_batch", _in_batch(_is_in_the_first_row)),
    Mistake("all prompts in the first row", TokenList, "add_chunk", _in_chunk(_is_in_the_first_row)),
    Mistake("the token before the last is asked", TokenList, "add_chunk", _ask_one_earlier),
    Mistake(
        "positions one further in the first slab",
        TokenList,
        "positions",
        property(lambda self: [column - first + (slab == 0) for slab, _, first, column in self.places]),
    ),
    Mistake(
        "positions count padding",
        TokenList,
        "positions",
        property(lambda self: [column for *_, column in self.places]),
    ),
    Mistake("window one too narrow", Description, "__init__", _with_window(-1), "MistralConfig", SLIDING),
    Mistake("window one too wide", Description, "__init__", _with_window(1), "MistralConfig", SLIDING),
    Mistake("no norm of queries", Description, "__init__", _without("query_norm"), "Qwen3Config"),
    Mistake("no norm of keys", Description, "__init__", _without("key_norm"), "Qwen3Config"),
    Mistake(
        "no biases",
        Description,
        "__init__",
        _without_biases("query", "key", "value"),
        settings={"attention_bias": True},
    ),
    Mistake("scores scaled by a tenth more", Description, "__init__", _scaled_wrongly),
    Mistake("weights, not one more", Description, "__init__", _with(norm_kind=0), "GemmaConfig"),
    Mistake("another gate", Description, "__init__", _with(gate_kind=0), "GemmaConfig"),
    *(
        Mistake(name, Description, "__init__", replacement, "Gemma2Config", GEMMA_2)
        for name, replacement in {
            "no norm of what attention adds": _without("attended_norm"),
            "no norm of what the network adds": _without("fed_norm"),
            "scores as they are": _with(score_cap=0),
            "logits as they are": _with(logit_cap=0),
        }.items()
    ),
    Mistake("one rotation for all", Description, "__init__", _with_one_rotation, "Gemma3TextConfig", GEMMA_3),
    Mistake("norms of each head", Description, "__init__", _with(head_norms=0), "Olmo2Config", OLMO_2),
    *(
        Mistake(name, Description, "__init__", replacement, "Starcoder2Config", STARCODER_2)
        for name, replacement in {
            "no mean is taken away": _with(norm_kind=1),
            "no biases of norms": _without_biases("input_norm", "network_norm"),
            "no biases behind attention": _without_biases("output"),
            "no biases in a network": _without_biases("gate", "down"),
            "another activation": _with(gate_kind=3),
            "activations multiplied": _multiplied_with_itself,
        }.items()
    ),
    Mistake(
        "half as much of a head rotates", Description, "__init__", _with(rotary_dim=4), "StableLmConfig", STABLE_LM
    ),
    Mistake("all heads have one norm", Description, "__init__", _with(head_norms=0), "StableLmConfig", STABLE_LM_2),
    *(
        Mistake(name, Description, "__init__", replacement, "GPTNeoXConfig", GPT_NEOX)
        for name, replacement in {
            "a network that follows": _with(is_parallel=0),
            "a network that reads what attention does": _without("network_norm"),
        }.items()
    ),
    Mistake(
        "queries, keys and values one behind the other",
        Anatomy,
        "__init__",
        _with_parts(is_interleaved=False),
        "GPTNeoXConfig",
        GPT_NEOX,
    ),
    *(
        Mistake(name, Description, "__init__", replacement, "MixtralConfig", EXPERTS)
        for name, replacement in {
            "gates of the first expert": _with_experts(gate_stride=0),
            "what the first expert gives": _with_experts(down_stride=0),
            "one expert instead of two": _with_experts(chosen=1),
            "shares as they are": _with_experts(is_divided=0),
        }.items()
    ),
    Mistake(
        "nothing of the shared expert",
        Description,
        "__init__",
        _with_experts(shared_gate=Linear()),
        "Qwen2MoeConfig",
        QWEN_2_MOE,
    ),
    Mistake(
        "shares divided",
        Description,
        "__init__",
        _with_experts(is_divided=1),
        "Qwen2MoeConfig",
        QWEN_2_MOE | {"num_experts_per_tok": 2},
    ),
    Mistake("no positions", Anatomy, "__init__", _without_positions, "GPT2Config", GPT_2),
    Mistake("no biases of the head", Description, "__init__", _without_biases_of_head, "PhiConfig", PHI),
)
