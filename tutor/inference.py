"""The saved checkpoint at work, through plain transformers."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from .checkpoint import FOLDER


@dataclass(frozen=True)
class Answer:
    """What the model generated."""

    text: str
    ended: bool
    """Whether it ended by itself, with one of its end tokens."""


class Tutor:
    """The 4-bit model and its tokenizer."""

    def __init__(self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._config = model.generation_config

    @classmethod
    def load(cls, folder: Path = FOLDER) -> Tutor:
        """The checkpoint of the folder, on the CPU."""
        model = LlamaForCausalLM.from_pretrained(folder, device_map="cpu", dtype=torch.bfloat16)
        return cls(model, PreTrainedTokenizerFast.from_pretrained(folder))

    def answers(self, prompts: Sequence[str], *, chat: bool = False, batch_size: int = 1) -> list[Answer]:
        """The greedy answer to each prompt; a chat prompt is one user's turn."""
        texts = [self._templated(prompt) for prompt in prompts] if chat else list(prompts)
        batches = [texts[start : start + batch_size] for start in range(0, len(texts), batch_size)]
        return [answer for batch in batches for answer in self._generate(batch, self._config, special=not chat)]

    def stories(self, prompt: str, count: int, seed: int = 0) -> list[Answer]:
        """Continuations sampled at temperature 1."""
        torch.manual_seed(seed)
        config = copy(self._config)
        config.update(do_sample=True, temperature=1.0, top_k=0)
        return self._generate([prompt] * count, config, special=True)

    def _templated(self, prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def _generate(self, texts: Sequence[str], config: GenerationConfig, *, special: bool) -> list[Answer]:
        inputs = self._tokenizer(list(texts), add_special_tokens=special, padding=True, return_tensors="pt")
        with torch.inference_mode():
            rows = self._model.generate(**inputs, generation_config=config)  # type: ignore[misc]  # typed for a protocol
        return [self._answer(row[inputs["input_ids"].shape[1] :]) for row in rows]

    def _answer(self, ids: Tensor) -> Answer:
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Answer(str(text), ended=bool(torch.isin(ids, torch.tensor(self._config.eos_token_id)).any()))
