"""Writes a Llama checkpoint as a GGUF file with 16-bit weights, for llama.cpp's own quantizer to read.

Runs in llama.cpp's environment, without torch: the checkpoint's bfloat16 bytes are copied as they are. Names and the
order of rows are those of llama.cpp's `convert_hf_to_gguf.py`.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

gguf: Any = import_module("gguf")  # by name: type checkers run where it is not installed

_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def export_gguf(model: Path, target: Path) -> None:
    """Writes the model's only shard of safetensors, in bfloat16, without a vocabulary: tokens are numbers only."""
    config = json.loads((model / "config.json").read_text())
    writer = gguf.GGUFWriter(target, "llama")
    _add_settings(writer, config)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for name, tensor in read_bfloat16(model / "model.safetensors").items():
        _add_tensor(writer, gguf_name(name), tensor, heads)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_bfloat16(path: Path) -> dict[str, NDArray[np.uint16]]:
    """Returns the bits of all tensors of a file of safetensors, which must be bfloat16."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        assert entry["dtype"] == "BF16", f"{name} is {entry['dtype']}"
        first, end = (8 + size + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(data[first:end], np.uint16).reshape(entry["shape"])
    return tensors


def gguf_name(name: str) -> str:
    """Returns what llama.cpp calls a tensor of a transformers Llama."""
    if name in _NAMES:
        return _NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_LAYER_NAMES[rest.removesuffix('.weight')]}.weight"


def interleave_halves(weight: NDArray[np.uint16], heads: int) -> NDArray[np.uint16]:
    """Reorders a query or key projection, [heads * dim, width], for rotations of neighbours instead of halves."""
    rows, width = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)


def _add_settings(writer: Any, config: dict[str, Any]) -> None:  # noqa: ANN401 - gguf is not installed everywhere
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)


def _add_tensor(writer: Any, name: str, tensor: NDArray[np.uint16], heads: dict[str, int]) -> None:  # noqa: ANN401
    if tensor.ndim == 1:
        writer.add_tensor(name, (tensor.astype(np.uint32) << 16).view(np.float32))
        return
    part = name.split(".")[-2]
    matrix = interleave_halves(tensor, heads[part]) if part in heads else tensor
    writer.add_tensor(name, np.ascontiguousarray(matrix).view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
