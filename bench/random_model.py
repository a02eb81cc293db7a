"""A model with random weights, quantized to NF4: the same arithmetic as a trained one, and nothing to download."""

import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from worker.config import Config
from worker.loading import LoadedModel, load

VOCAB_SIZE = 32_000


def random_llama(*, layers: int = 16, width: int = 1024) -> LoadedModel:
    """Returns a Llama of some 270 million parameters at 16 layers of width 1024, loaded as the worker loads it."""
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 128,
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=2048,
        eos_token_id=None,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, torch.device("cpu"):
        LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
        tokenizer = Tokenizer(models.WordLevel({"<pad>": 0}, unk_token="<pad>"))
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>").save_pretrained(folder)
        return load(Config(model=str(Path(folder)), name=f"random-llama-{layers}x{width}"))
