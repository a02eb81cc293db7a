"""How the attention of transformers' models becomes a captured step's own.

transformers looks attention up by name, and the mask with it. Under `decoding`, both are ours: the mask says which
rule holds for a layer instead of being a tensor, and attention refuses whatever it has no rule for. So a model that
does something else than it is known to do is not captured, rather than computed wrongly. Outside, and for prefill, the
model's own attention is untouched.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, CacheLayerMixin

from ..kernels.ops import Bounds, Ops, Pool

_NAME = "textserve_decode"
_SUPPORTED = "sdpa"
"""The attention that a model must have been loaded with: softcapping and the like are not in it."""
_HARMLESS = {"sliding_window", "position_ids", "use_cache", "is_causal"}
"""Arguments of attention that change nothing of one token's, or that the mask says, too."""


class UncapturableError(Exception):
    """The model does something in a decode step that cannot be captured; the message says what."""


@dataclass(frozen=True)
class Rule:
    """What a layer's attention sees: takes the mask's place."""

    window: int
    """How many of the newest tokens; 0: all."""


@dataclass
class Decoding:
    """A decode step that is being run or captured."""

    ops: Ops
    bounds: Bounds
    attended: int = 0
    """Layers whose attention was computed."""


_current: ContextVar[Decoding] = ContextVar("decoding")


@contextmanager
def decoding(model: Any, step: Decoding) -> Iterator[None]:  # noqa: ANN401 - transformers models share no static type
    """Makes the model's attention that of a step.

    Raises UncapturableError if the model was not loaded with torch's scaled dot product attention.
    """
    config = model.config
    implementation = config._attn_implementation  # noqa: SLF001 - no public way to read it
    if implementation != _SUPPORTED or not model._supports_attention_backend:  # noqa: SLF001 - the same
        raise UncapturableError(f"its attention is {implementation}, not looked up by name")
    token = _current.set(step)
    config._attn_implementation = _NAME  # noqa: SLF001 - set_attn_implementation would write to every module
    try:
        yield
    finally:
        config._attn_implementation = implementation  # noqa: SLF001 - as above
        _current.reset(token)


class PoolLayer(CacheLayerMixin):
    """A layer's memory as a captured step sees it: `update` writes where the bounds say, and returns the whole pool."""

    is_sliding = False
    is_croppable = False

    def __init__(self, pool: Pool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.pool = pool
        self.is_initialized = True

    def lazy_initialization(self, *_args: object, **_kwargs: object) -> None:
        """Does nothing: the memory is there from the start."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Writes [rows, heads, 1, dimension] for the rows that are there."""
        step = _current.get()
        step.ops.write(key_states[:, :, 0], value_states[:, :, 0], self.pool, step.bounds)
        return self.pool.keys, self.pool.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Returns all of the pool: what is seen of it only the device knows."""
        return self.pool.keys.shape[2] + query_length, 0

    def get_seq_length(self) -> int:
        """Returns something positive: the rows have tokens already."""
        return self.pool.keys.shape[2]

    def get_max_length(self) -> int:
        """Returns the tokens of the pool."""
        return self.pool.keys.shape[2]


def pool_cache(pools: list[Pool]) -> Cache:
    """Returns what transformers is given in a captured step."""
    return Cache(layers=[PoolLayer(pool) for pool in pools])


def _mask(
    *,
    q_length: int,
    attention_mask: Tensor | None,
    allow_is_causal_skip: bool,
    use_vmap: bool,
    config: Any,  # noqa: ANN401 - each family has its own config class
    local_size: int | None = None,
    **_sizes: object,
) -> Rule:
    """Says what a layer sees; raises UncapturableError if that is no window of the newest tokens."""
    is_plain = allow_is_causal_skip and not use_vmap and attention_mask is None and q_length == 1
    if not is_plain or getattr(config, "attention_chunk_size", None):
        raise UncapturableError("its attention has a pattern of its own")
    return Rule(window=local_size or 0)


def _attention(
    module: Any,  # noqa: ANN401 - each family has its own attention class
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: object,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **settings: object,
) -> tuple[Tensor, None]:
    """Attends from [rows, heads, 1, dimension]; returns [rows, 1, heads, dimension of the values]."""
    step = _current.get()
    unknown = [name for name, value in settings.items() if name not in _HARMLESS and not _is_off(value)]
    if unknown or dropout or settings.get("is_causal") is False or not isinstance(attention_mask, Rule):
        raise UncapturableError(f"the attention of {type(module).__name__} has {unknown or 'a mask of its own'}")
    out = step.ops.attend(
        query[:, :, 0],
        Pool(key, value),
        step.bounds,
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=attention_mask.window,
    )
    step.attended += 1
    return out[:, None], None


def _is_off(value: object) -> bool:
    return value is None or value is False


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, _mask)
