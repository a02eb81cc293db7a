"""Finds out what a model's layers keep, and whether they look ahead, by running tokens through it."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import (
    DummyLayer,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from ..domain.refusal import UnsupportedModelError
from ..memory.layout import Layout, RecurrentShape, StateShape, TokenShape
from .dispatch import input_device
from .quantization.bitsandbytes_offline import bnb

_KINDS = {
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    DummyLayer,
}

_ALIBI = {"bloom", "mpt"}
"""Types of models without position_ids whose attention only knows distances between tokens."""


_NOISE = {torch.float32: 1e-3}
"""How far a token's logits may move with what follows it, as a share of how far the following token's own move: experts
that get other tokens beside it round otherwise. More in 16 bit."""
_NOISE_IN_16_BIT = 0.03


def layer_layouts(model: Any) -> list[Layout]:  # noqa: ANN401 - transformers models share no useful static type
    """Runs a few tokens through the model and returns what each layer keeps of them.

    Raises UnsupportedModelError if layers keep something else than keys and values for each token and states for each
    row, or keep it elsewhere than in the cache that they are given, or let padding into their states, or take the
    columns of a batch for positions, or look at tokens behind the one that they are at.
    """
    name = type(model).__name__
    _check_direction(model)
    cache, _ = _run(model, [0], mask=1)
    layouts = [_layout(name, layer) for layer in cache.layers]
    if any(layout.tokens for layout in layouts):
        _check_positions(model)
        _check_causality(model)
    if any(layout.states for layout in layouts):
        _check_padding(name, _run(model, [0, 0], mask=0)[0])
    return layouts


def expected_layouts(skeleton: Any) -> list[Layout]:  # noqa: ANN401 - as above
    """Returns what each layer of a model without weights will keep; nothing is computed. Raises as `layer_layouts`.

    Its type must be that which the model will compute in.
    """
    cache, _ = _run(skeleton, [0], mask=None)  # a mask would be looked at, and there is nothing in it
    return [_layout(type(skeleton).__name__, layer) for layer in cache.layers]


def _check_direction(model: Any) -> None:  # noqa: ANN401 - as above
    """Refuses what by its config reads in both directions; decoders of which it says so have no such attention."""
    name, config = type(model).__name__, model.config.get_text_config()
    attention = [
        each for each in model.modules() if getattr(each, "is_causal", getattr(each, "is_decoder", True)) is False
    ]
    if getattr(config, "is_decoder", None) is False and attention:
        raise UnsupportedModelError(
            f"{name} is an encoder, as is_decoder false in its config says: tokens look at those that follow them"
        )
    if getattr(config, "use_bidirectional_attention", None) in {True, "all"}:
        raise UnsupportedModelError(
            f"{name} reads in both directions, as use_bidirectional_attention in its config says"
        )


def _check_causality(model: Any) -> None:  # noqa: ANN401 - as above
    """Refuses a model in which a token's logits depend on what follows it."""
    with _without_outliers(model):
        one, other = (_run(model, tokens, mask=1)[1] for tokens in ([0, 0], [0, 1]))
    first, second = (one - other).abs().amax(dim=-1).tolist()
    if first > second * _NOISE.get(model.dtype, _NOISE_IN_16_BIT):
        raise UnsupportedModelError(
            f"{type(model).__name__} looks ahead: a token's logits change with those that follow it"
        )


@contextmanager
def _without_outliers(model: Any) -> Iterator[None]:  # noqa: ANN401 - as above
    """Within this LLM.int8 computes each token alone: the columns of outliers are picked over all that are read."""
    layers = [each for each in model.modules() if isinstance(each, bnb.nn.Linear8bitLt)]
    thresholds = [layer.state.threshold for layer in layers]
    for layer in layers:
        layer.state.threshold = 0.0
    try:
        yield
    finally:
        for layer, threshold in zip(layers, thresholds, strict=True):
            layer.state.threshold = threshold


def _run(model: Any, tokens: list[int], *, mask: int | None) -> tuple[DynamicCache, Tensor]:  # noqa: ANN401 - as above
    """Returns the cache after a row of tokens, or of padding where the mask is 0, and logits, [tokens, vocabulary]."""
    name = type(model).__name__
    parameters = inspect.signature(model.forward).parameters
    argument = next((argument for argument in ("past_key_values", "cache_params") if argument in parameters), None)
    if argument is None:
        raise UnsupportedModelError(
            f"{name}.forward takes neither past_key_values nor cache_params, "
            "so textserve cannot give it the memory of a batch"
        )
    input_ids = torch.tensor([tokens], device="meta" if mask is None else input_device(model))
    try:
        cache = DynamicCache(config=model.config)
        _check_kinds(name, cache)
        with torch.inference_mode():
            attention_mask = None if mask is None else torch.full_like(input_ids, mask)
            made = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=True, **{argument: cache})
    except (torch.OutOfMemoryError, torch.AcceleratorError):  # RuntimeErrors that a restart may mend
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UnsupportedModelError(f"{name} does not run with the cache that transformers makes: {error}") from error
    return cache, made.logits[0].float()


def _check_positions(model: Any) -> None:  # noqa: ANN401 - as above
    """Refuses attention to which nobody can tell a token's position, but for ALiBi, which needs distances alone."""
    if model.config.model_type not in _ALIBI and "position_ids" not in inspect.signature(model.forward).parameters:
        raise UnsupportedModelError(
            f"{type(model).__name__}.forward takes no position_ids: it counts the columns of a batch, padding included"
        )


def _check_kinds(name: str, cache: DynamicCache) -> None:
    for layer in cache.layers:
        if type(layer) not in _KINDS:
            raise UnsupportedModelError(
                f"{name} has layers that transformers keeps in {type(layer).__name__}, "
                "whose memory is not keys and values for each token or states for each row"
            )


def _layout(name: str, layer: Any) -> Layout:  # noqa: ANN401 - layers share no base class
    states: tuple[RecurrentShape, ...] = ()
    if isinstance(layer, LinearAttentionCacheLayerMixin):
        pairs = zip(layer.conv_states.values(), layer.recurrent_states.values(), strict=True)
        states = tuple(RecurrentShape(_state(conv), _state(recurrent)) for conv, recurrent in pairs)
    layout = Layout(
        _token(layer) if isinstance(layer, DynamicLayer) and layer.keys is not None else None,
        states if any(pair.bytes for pair in states) else (),
    )
    if layout == Layout() and not isinstance(layer, DummyLayer):
        raise UnsupportedModelError(
            f"{name} has a {type(layer).__name__} that its forward pass leaves empty: "
            "what the layer remembers is not in the cache that it is given"
        )
    return layout


def _token(layer: Any) -> TokenShape:  # noqa: ANN401 - the base class types keys and values as optional
    keys: Tensor = layer.keys
    values: Tensor = layer.values
    return TokenShape(
        key_heads=keys.shape[1],
        key_dim=keys.shape[3],
        value_heads=values.shape[1],
        value_dim=values.shape[3],
        dtype=keys.dtype,
        device=keys.device,
    )


def _state(state: Tensor | None) -> StateShape | None:
    return None if state is None else StateShape(tuple(state.shape[1:]), state.dtype, state.device)


def _check_padding(name: str, cache: DynamicCache) -> None:
    """Refuses a model in which a row of nothing but padding has a state other than zero."""
    for layer in cache.layers:
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            for state in (*layer.conv_states.values(), *layer.recurrent_states.values()):
                if state is not None and state.any():
                    raise UnsupportedModelError(
                        f"{name} lets padding into the state of its recurrent layers: transformers masks a layer's "
                        "input, and a bias behind that makes it other than zero"
                    )
