"""Describes models to the C code: where their weights are, and what is to be done with them."""

from typing import Any

import torch
from torch import Tensor, nn

from ...loading.cpu_level import Arithmetic
from .anatomy import Anatomy
from .linear import NativeLinear
from .structures import Layer, Linear, Model, Norm


class Description:
    """A model's addresses and sizes. What they point to is kept as long as this is."""

    def __init__(self, model: Any, arithmetic: Arithmetic = "exact") -> None:  # noqa: ANN401 - transformers models share no useful static type
        """Takes a model without obstacles, its 4-bit layers packed, and what those multiply with."""
        self._arithmetic: Arithmetic = arithmetic
        # Kept here: the structures hold addresses alone.
        self._norms: list[Tensor] = []
        self._linears: list[NativeLinear] = []
        self.anatomy = anatomy = Anatomy(model)
        parts, config = anatomy.parts, anatomy.config
        self.layer_count = len(anatomy.layers)
        self.vocab_size = anatomy.head.out_features
        self._layers = (Layer * self.layer_count)(*map(self._layer, anatomy.layers))
        self.structure = Model(
            layers=self._layers,
            final_norm=self._norm([anatomy.final_norm]),
            head=self._linear(anatomy.head),
            layer_count=self.layer_count,
            width=config.hidden_size,
            inner=max(map(anatomy.inner, anatomy.layers)),
            heads=anatomy.heads,
            key_heads=anatomy.key_heads,
            head_dim=anatomy.head_dim,
            norm_kind=parts.norm,
            head_norms=parts.head_norms,
            gate_kind=anatomy.gate_kind,
            rotary_dim=anatomy.rotary_dim,
            is_interleaved=parts.is_interleaved,
            is_parallel=parts.is_parallel(config),
            epsilon=anatomy.epsilon,
            scaling=anatomy.scaling(anatomy.layers[0]),
            score_cap=(config.attn_logit_softcapping or 0) if parts.caps_scores else 0,
            logit_cap=getattr(config, "final_logit_softcapping", None) or 0,
        )

    def _layer(self, layer: nn.Module) -> Layer:
        projections = self.anatomy.projections(layer)
        return Layer(
            **{field: self._norm(norms) for field, norms in self.anatomy.norms(layer).items()},
            **{each.field: self._linear(each.module, each.outputs) for each in projections},
            window=self.anatomy.window(layer),
            rotation=self.anatomy.rotation(layer),
        )

    def _norm(self, norms: list[Any]) -> Norm:
        """Returns a norm, or those of all heads, one behind the other."""
        weights, biases = ([getattr(norm, name, None) for norm in norms] for name in ("weight", "bias"))
        return Norm(self._address(weights), self._address(biases))

    def _address(self, weights: list[Any]) -> int | None:
        if weights[0] is None:
            return None
        self._norms.append(weights[0] if len(weights) == 1 else torch.cat(weights))
        return self._norms[-1].data_ptr()

    def _linear(self, layer: Any, outputs: range | None = None) -> Linear:  # noqa: ANN401 - as above
        self._linears.append(NativeLinear(layer, self._arithmetic, outputs))
        return self._linears[-1].structure
