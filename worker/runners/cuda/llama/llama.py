"""A decode step of Llama and its relatives with as few kernels as there can be: ten for each layer.

The modules of transformers' model are read once, for their weights; in a step none of them runs but the embedding, the
rotary angles and the head. Other models take transformers' own forward pass.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..kernels.ops import Ops, Pool, Rotation
from .forward import StaticInput
from .projection import Product, project

_TYPES = {"llama", "mistral", "qwen2", "qwen3"}


@dataclass(frozen=True)
class _Layer:
    pool: Pool
    attention_norm: Tensor
    qkv: Product
    query_norm: Tensor | None
    key_norm: Tensor | None
    out: Product
    mlp_norm: Tensor
    gate_up: Product
    down: Product

    @classmethod
    def of(cls, layer: Any, pool: Pool) -> "_Layer":  # noqa: ANN401 - each family has its own layer class
        attention, mlp = layer.self_attn, layer.mlp
        return cls(
            pool=pool,
            attention_norm=layer.input_layernorm.weight,
            qkv=project([attention.q_proj, attention.k_proj, attention.v_proj]),
            query_norm=attention.q_norm.weight if hasattr(attention, "q_norm") else None,
            key_norm=attention.k_norm.weight if hasattr(attention, "k_norm") else None,
            out=project([attention.o_proj]),
            mlp_norm=layer.post_attention_layernorm.weight,
            gate_up=project([mlp.gate_proj, mlp.up_proj]),
            down=project([mlp.down_proj]),
        )


def is_llama_like(model: Any) -> bool:  # noqa: ANN401 - transformers models share no useful static type
    """Returns whether LlamaForward computes what the model does."""
    config = model.config
    if config.model_type not in _TYPES:
        return False
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    has_full_attention = kinds == {"full_attention"} and getattr(config, "sliding_window", None) is None
    dim = model.model.layers[0].self_attn.head_dim
    turns_whole_heads = 2 * model.model.rotary_emb.inv_freq.numel() == dim
    return has_full_attention and turns_whole_heads and config.hidden_act == "silu"


class LlamaForward:
    """Implements Forward."""

    def __init__(self, model: Any, layers: Sequence[Pool], ops: Ops) -> None:  # noqa: ANN401 - as above
        """Takes a model that is llama-like. Its fused projections become views of one matrix each."""
        body = model.model
        self.ops = ops
        self.embedding = model.get_input_embeddings()
        self.rotary = body.rotary_emb
        self.epsilon: float = model.config.rms_norm_eps
        self.scaling: float = body.layers[0].self_attn.scaling
        self.layers = [_Layer.of(layer, pool) for layer, pool in zip(body.layers, layers, strict=True)]
        self.norm: Tensor = body.norm.weight
        self.head = project([model.get_output_embeddings()])

    def projections(self) -> Iterator[Product]:
        """Yields all products with weights."""
        for layer in self.layers:
            yield from (layer.qkv, layer.out, layer.gate_up, layer.down)
        yield self.head

    def __call__(self, given: StaticInput) -> Tensor:
        """See Forward."""
        residual = self.embedding(given.tokens)
        cos, sin = self._angles(residual, given)
        normed = self.ops.rms_norm(residual, self.layers[0].attention_norm, self.epsilon)
        following = [*(layer.attention_norm for layer in self.layers[1:]), self.norm]
        for layer, next_norm in zip(self.layers, following, strict=True):
            rotation = Rotation(cos, sin, layer.query_norm, layer.key_norm, self.epsilon)
            attended = self._attend(layer, normed, rotation, given)
            normed, residual = self.ops.add_rms_norm(layer.out(attended), residual, layer.mlp_norm, self.epsilon)
            hidden = layer.down(self.ops.silu_multiply(layer.gate_up(normed)))
            normed, residual = self.ops.add_rms_norm(hidden, residual, next_norm, self.epsilon)
        return self.head(normed)

    def _angles(self, hidden: Tensor, given: StaticInput) -> tuple[Tensor, Tensor]:
        cos, sin = self.rotary(hidden[:, None], given.positions()[:, None])
        return cos[:, 0].contiguous(), sin[:, 0].contiguous()

    def _attend(self, layer: _Layer, normed: Tensor, rotation: Rotation, given: StaticInput) -> Tensor:
        query = self.ops.rotate_and_write(layer.qkv(normed), rotation, layer.pool, given.bounds)
        attended = self.ops.attend(query, layer.pool, given.bounds, scaling=self.scaling)
        return torch.flatten(attended, 1)
