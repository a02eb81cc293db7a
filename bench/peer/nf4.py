"""The model in NF4, as transformers and bitsandbytes load it."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig


def load_nf4(folder: str) -> Any:  # noqa: ANN401 - transformers models share no useful static type
    """Returns the checkpoint quantized to NF4 with quantized scales, computing in bfloat16."""
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=config)
