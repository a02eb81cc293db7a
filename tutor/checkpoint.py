"""The saved checkpoint: NF4, with everything that `AutoModelForCausalLM` and `AutoTokenizer` load."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GenerationConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from .tokenizer import BEGIN, CHAT_TEMPLATE, CONTEXT_LENGTH, END, END_OF_TURN, PAD

FOLDER = Path(__file__).resolve().parent.parent / "worker" / "models" / "tutor"
LONGEST_ANSWER = 128


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path = FOLDER) -> None:
    """Writes the model in 4 bits; it is saved before it computes, because computing re-packs 4-bit weights on CPUs."""
    model.generation_config = _generation_config(tokenizer)
    with TemporaryDirectory() as unquantized:
        model.bfloat16().save_pretrained(unquantized)
        quantized = AutoModelForCausalLM.from_pretrained(
            unquantized, quantization_config=_quantization(), dtype=torch.bfloat16, device_map="cpu"
        )
        quantized.save_pretrained(folder)
    _for_transformers(tokenizer).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes it private


def _for_transformers(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT_LENGTH,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _quantization() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)


def _generation_config(tokenizer: Tokenizer) -> GenerationConfig:
    return GenerationConfig(
        bos_token_id=tokenizer.token_to_id(BEGIN),
        eos_token_id=[tokenizer.token_to_id(END), tokenizer.token_to_id(END_OF_TURN)],
        pad_token_id=tokenizer.token_to_id(PAD),
        do_sample=False,
        max_new_tokens=LONGEST_ANSWER,
    )
