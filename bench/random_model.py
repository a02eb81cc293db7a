"""A model with random weights, quantized to NF4: the same arithmetic as a trained one, and nothing to download."""

import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from worker.domain.config import Config
from worker.loading.cpu import CpuCode
from worker.loading.loading import LoadedModel, load

VOCAB_SIZE = 32_000


def random_llama(code: CpuCode | None = None, *, layers: int = 16, width: int = 1024) -> LoadedModel:
    """Returns a Llama of some 270 million parameters at 16 layers of width 1024, loaded as the worker loads it.

    With the C code it is for the engine, without it for transformers and bitsandbytes alone.
    """
    with tempfile.TemporaryDirectory() as folder:
        export_random_llama(Path(folder), layers=layers, width=width)
        return load(Config(model=folder, name=f"random-llama-{layers}x{width}"), code)


def export_random_llama(folder: Path, *, layers: int = 16, width: int = 1024) -> None:
    """Saves the model's 16-bit checkpoint and a tokenizer, in which "w17" is the word of token 17; always the same."""
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
    with torch.device("cpu"):
        LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    words = {"<pad>": 0} | {f"w{token}": token for token in range(1, VOCAB_SIZE)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>").save_pretrained(folder)
