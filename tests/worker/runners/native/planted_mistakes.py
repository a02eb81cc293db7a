"""Mistakes to plant into what the C code is told: a comparison that they do not disturb shows nothing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.worker.runners.native.models import GEMMA_2, GEMMA_3, OLMO_2
from worker.loading.cpu_level import Arithmetic
from worker.memory.batch import Batch
from worker.runners.native.llama import LlamaDescription
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
    def __init__(self: LlamaDescription, model: Any, *arithmetic: Arithmetic) -> None:  # noqa: N807 - it takes the place of one
        _describe(self, model, *arithmetic)
        for layer in self._layers:
            layer.window += change if layer.window else 0

    return __init__


def _without(*fields: str) -> Callable[..., None]:
    def __init__(self: LlamaDescription, model: Any, *arithmetic: Arithmetic) -> None:  # noqa: N807 - it takes the place of one
        _describe(self, model, *arithmetic)
        for layer in self._layers:
            for name in fields:
                setattr(layer, name, None)

    return __init__


def _without_biases(self: LlamaDescription, model: Any, *arithmetic: Arithmetic) -> None:
    _describe(self, model, *arithmetic)
    for layer in self._layers:
        layer.query.bias = layer.key.bias = layer.value.bias = None


def _with(**fields: float) -> Callable[..., None]:
    def __init__(self: LlamaDescription, model: Any, *arithmetic: Arithmetic) -> None:  # noqa: N807 - it takes the place of one
        _describe(self, model, *arithmetic)
        for name, value in fields.items():
            setattr(self.structure, name, value)

    return __init__


def _with_one_rotation(self: LlamaDescription, model: Any, *arithmetic: Arithmetic) -> None:
    _describe(self, model, *arithmetic)
    for layer in self._layers:
        layer.rotation = 0


def _scaled_wrongly(self: LlamaDescription, model: Any, *arithmetic: Arithmetic) -> None:
    _describe(self, model, *arithmetic)
    self.structure.scaling *= 1.1


_add_batch, _add_chunk, _describe = TokenList.add_batch, TokenList.add_chunk, LlamaDescription.__init__
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
    Mistake("window one too narrow", LlamaDescription, "__init__", _with_window(-1), "MistralConfig", SLIDING),
    Mistake("window one too wide", LlamaDescription, "__init__", _with_window(1), "MistralConfig", SLIDING),
    Mistake("no norm of queries", LlamaDescription, "__init__", _without("query_norm"), "Qwen3Config"),
    Mistake("no norm of keys", LlamaDescription, "__init__", _without("key_norm"), "Qwen3Config"),
    Mistake("no biases", LlamaDescription, "__init__", _without_biases, settings={"attention_bias": True}),
    Mistake("scores scaled by a tenth more", LlamaDescription, "__init__", _scaled_wrongly),
    Mistake("weights, not one more", LlamaDescription, "__init__", _with(norm_kind=0), "GemmaConfig"),
    Mistake("another gate", LlamaDescription, "__init__", _with(gate_kind=0), "GemmaConfig"),
    *(
        Mistake(name, LlamaDescription, "__init__", replacement, "Gemma2Config", GEMMA_2)
        for name, replacement in {
            "no norm of what attention adds": _without("attended_norm"),
            "no norm of what the network adds": _without("fed_norm"),
            "scores as they are": _with(score_cap=0),
            "logits as they are": _with(logit_cap=0),
        }.items()
    ),
    Mistake("one rotation for all", LlamaDescription, "__init__", _with_one_rotation, "Gemma3TextConfig", GEMMA_3),
    Mistake("norms of each head", LlamaDescription, "__init__", _with(norms_all_heads=0), "Olmo2Config", OLMO_2),
)
