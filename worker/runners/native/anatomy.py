"""Finds the parts of a model of a known family, whatever its class calls them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn

from .families import FAMILIES
from .linear import shape
from .structures import GateKind

_GATES = {
    "silu": GateKind.SILU,
    "gelu": GateKind.GELU,
    "gelu_pytorch_tanh": GateKind.GELU_TANH,
    "gelu_new": GateKind.GELU_TANH,
    "gelu_fast": GateKind.GELU_TANH,
    "relu": GateKind.RELU,
}
"""By transformers' names. Three of them are one function, which two of those compute in steps of bfloat16."""
_ACTIVATIONS = ("hidden_activation", "hidden_act", "activation_function", "activation")
"""Where configs have them."""


class Projection(NamedTuple):
    """A linear layer, or some outputs of one."""

    field: str
    """Of `structures.Layer`."""
    name: str
    """In the model."""
    module: Any
    outputs: range | None
    """None: all."""


class Anatomy:
    """The parts of a model, with weights or without."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - transformers models share no useful static type
        """Takes a model of one of the FAMILIES."""
        self.parts = FAMILIES[type(model).__name__]
        self.config = model.config
        self.embedding, self.head = model.get_input_embeddings(), model.lm_head
        self.decoder = getattr(model, self.parts.decoder)
        self.layers = list(getattr(self.decoder, self.parts.layers))
        self.final_norm = getattr(self.decoder, self.parts.final_norm)
        self.positions = getattr(self.decoder, self.parts.positions, None)
        self.rotary: Any = None if self.positions is not None else self.decoder.rotary_emb
        attention = self.attention(self.layers[0])
        self.heads: int = self.config.num_attention_heads
        # Falcon's config may have more than its attention has.
        self.key_heads: int = getattr(
            attention, "num_kv_heads", getattr(self.config, "num_key_value_heads", None) or self.heads
        )
        self.head_dim: int = getattr(attention, "head_dim", None) or attention.head_size
        self.rotary_dim = 2 * next((frequencies for _, frequencies in self.ropes()), 0)

    @property
    def activation(self) -> str:
        """Returns transformers' name of what stands between the projections of a network."""
        return str(next(filter(None, (getattr(self.config, name, None) for name in _ACTIVATIONS))))

    @property
    def gate_kind(self) -> GateKind | None:
        """Returns what the C code calls that; None if it has none such."""
        return _GATES.get(self.activation)

    @property
    def epsilon(self) -> float:
        """Returns what the norms add to a variance."""
        norm = self.final_norm
        return float(norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps)

    @property
    def rotation_kinds(self) -> list[str | None]:
        """Returns the kinds of layers that have a rotation of their own, as `rotary` calls them; None: all."""
        return list(getattr(self.rotary, "layer_types", (None,)))

    def ropes(self) -> Iterator[tuple[str, int]]:
        """Yields each rotation's type, and its number of frequencies."""
        for kind in self.rotation_kinds if self.rotary else ():
            if kind is None:
                yield self.rotary.rope_type, self.rotary.inv_freq.numel()
            else:
                yield self.rotary.rope_type[kind], getattr(self.rotary, f"{kind}_inv_freq").numel()

    def attention(self, layer: nn.Module) -> Any:  # noqa: ANN401 - as above
        """Returns a layer's attention."""
        return getattr(layer, self.parts.attention)

    def network(self, layer: nn.Module) -> Any:  # noqa: ANN401 - as above
        """Returns the network that all tokens go through; None if a layer has experts alone."""
        network = getattr(layer, self.parts.network)
        return getattr(network, "shared_expert", None) if self.routed(layer) else network

    def routed(self, layer: nn.Module) -> Any:  # noqa: ANN401 - as above
        """Returns what has a layer's router (`gate`) and `experts`; None if it has none."""
        network = getattr(layer, self.parts.network)
        return network if hasattr(network, "experts") else None

    def scaling(self, layer: nn.Module) -> float:
        """Returns what a layer's scores are multiplied with."""
        return float(getattr(self.attention(layer), "scaling", self.head_dim**-0.5))

    def inner(self, layer: nn.Module) -> int:
        """Returns how wide the network is that all tokens go through; 0 if there is none."""
        network = self.network(layer)
        return 0 if network is None else shape(getattr(network, self.parts.down))[1]

    def inner_of_experts(self, layer: nn.Module) -> int:
        """Returns how wide each of a layer's experts is; 0 if there are none."""
        routed = self.routed(layer)
        return 0 if routed is None else int(routed.experts.down_proj.shape[-1])

    def window(self, layer: nn.Module) -> int:
        """Returns how many columns a token of this layer sees; 0: all."""
        owner = self.config if self.parts.slides else self.attention(layer)
        return int(getattr(owner, "sliding_window", None) or 0)

    def rotation(self, layer: nn.Module) -> int:
        """Returns which rotation a layer has."""
        kind = getattr(self.attention(layer), "layer_type", None)
        return self.rotation_kinds.index(kind) if kind in self.rotation_kinds else 0

    def norms(self, layer: nn.Module) -> dict[str, list[nn.Module]]:
        """Returns a layer's norms by the fields of `structures.Layer`: several, if each head has one."""
        parts, attention = self.parts, self.attention(layer)
        found = {
            "input_norm": _first(layer, parts.input_norm),
            "network_norm": _first(layer, parts.network_norm),
            "attended_norm": getattr(layer, parts.attended_norm, None),
            "fed_norm": getattr(layer, parts.fed_norm, None),
            "query_norm": getattr(attention, parts.query_norm, None),
            "key_norm": getattr(attention, parts.key_norm, None),
        }
        return {field: list(getattr(norm, "norms", (norm,))) for field, norm in found.items() if norm is not None}

    def projections(self, layer: nn.Module) -> Iterator[Projection]:
        """Yields a layer's projections."""
        parts, attention, network = self.parts, self.attention(layer), self.network(layer)
        inner, keys = self.inner(layer), self.key_heads * self.head_dim
        if parts.is_interleaved:
            yield Projection("query", parts.packed, getattr(attention, parts.packed), None)
        elif parts.packed:
            yield from _packed(attention, parts.packed, query=self.heads * self.head_dim, key=keys, value=keys)
        else:
            for field, name in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
                yield Projection(field, name, getattr(attention, name), None)
        yield Projection("output", parts.output, getattr(attention, parts.output), None)
        if network is None:
            return
        if parts.packed_gate:
            yield from _packed(network, parts.packed_gate, gate=inner, up=inner)
        else:
            for field, name in (("gate", parts.gate), ("up", parts.up)):
                if name:
                    yield Projection(field, name, getattr(network, name), None)
        yield Projection("down", parts.down, getattr(network, parts.down), None)


def _first(module: nn.Module, names: tuple[str, ...]) -> Any:  # noqa: ANN401 - as above
    return next(filter(None, (getattr(module, name, None) for name in names)), None)


def _packed(module: nn.Module, name: str, **sizes: int) -> Iterator[Projection]:
    """Yields parts of a projection that has them one behind the other."""
    begin = 0
    for field, size in sizes.items():
        yield Projection(field, name, getattr(module, name), range(begin, begin + size))
        begin += size
