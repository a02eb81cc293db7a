"""Describes models to the C code: where their weights are, and what is to be done with them."""

from typing import Any

import torch
from torch import Tensor, nn

from ...loading.cpu_level import Arithmetic
from .anatomy import Anatomy
from .linear import NativeLinear
from .structures import Experts, Layer, Linear, Model, Norm


class Description:
    """A model's addresses and sizes. What they point to is kept as long as this is."""

    def __init__(self, model: Any, arithmetic: Arithmetic = "exact") -> None:  # noqa: ANN401 - transformers models share no useful static type
        """Takes a model without obstacles, its 4-bit layers packed, and what those multiply with."""
        self._arithmetic: Arithmetic = arithmetic
        # Kept here: the structures hold addresses alone.
        self._tensors: list[Tensor] = []
        self._linears: list[NativeLinear] = []
        anatomy = Anatomy(model)
        parts, config = anatomy.parts, anatomy.config
        self.layer_count = len(anatomy.layers)
        self.vocab_size = anatomy.head.out_features
        self._layers = (Layer * self.layer_count)(*(self._layer(anatomy, layer) for layer in anatomy.layers))
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

    def _layer(self, anatomy: Anatomy, layer: nn.Module) -> Layer:
        projections = anatomy.projections(layer)
        return Layer(
            **{field: self._norm(norms) for field, norms in anatomy.norms(layer).items()},
            **{each.field: self._linear(each.module, each.outputs) for each in projections},
            experts=self._experts(anatomy.routed(layer)),
            window=anatomy.window(layer),
            rotation=anatomy.rotation(layer),
        )

    def _experts(self, routed: Any) -> Experts:  # noqa: ANN401 - as above
        if routed is None:
            return Experts()
        gates, downs = routed.experts.gate_up_proj.data, routed.experts.down_proj.data
        gate, up = gates[0].chunk(2)
        shared = getattr(routed, "shared_expert_gate", None)
        return Experts(
            router=self._matrix(routed.gate.weight.data),
            gate=self._matrix(gate),
            up=self._matrix(up),
            down=self._matrix(downs[0]),
            gate_stride=gates.stride(0),
            down_stride=downs.stride(0),
            chosen=routed.gate.top_k,
            # Mixtral's router always does, and has no word for it.
            is_divided=getattr(routed.gate, "norm_topk_prob", True),
            shared_gate=Linear() if shared is None else self._linear(shared),
        )

    def _matrix(self, weights: Tensor) -> Linear:
        """Returns dense weights, [outputs, inputs]."""
        self._tensors.append(weights)
        outputs, inputs = weights.shape
        return Linear(dense=weights.data_ptr(), outputs=outputs, inputs=inputs)

    def _norm(self, norms: list[Any]) -> Norm:
        """Returns a norm, or those of all heads, one behind the other."""
        weights, biases = ([getattr(norm, name, None) for norm in norms] for name in ("weight", "bias"))
        return Norm(self._address(weights), self._address(biases))

    def _address(self, weights: list[Any]) -> int | None:
        if weights[0] is None:
            return None
        self._tensors.append(weights[0] if len(weights) == 1 else torch.cat(weights))
        return self._tensors[-1].data_ptr()

    def _linear(self, layer: Any, outputs: range | None = None) -> Linear:  # noqa: ANN401 - as above
        self._linears.append(NativeLinear(layer, self._arithmetic, outputs))
        return self._linears[-1].structure
