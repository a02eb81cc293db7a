"""Makes the checkpoint from nothing: `python -m tutor.train`."""

from __future__ import annotations

import argparse
import time
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention

from . import nf4
from .batches import Batch, batches
from .checkpoint import FOLDER, save
from .compose import documents
from .tokenizer import BEGIN, CONTEXT_LENGTH, END, PAD, VOCABULARY_SIZE, texts, train_tokenizer

SEED = 1
THREADS = 2
TOKENIZER_DOCUMENTS = 20_000
STEPS = 2600
TOKENS_PER_STEP = 2048
LEARNING_RATE = 3e-3
WARMUP_STEPS = 60
FLOAT_SHARE = 0.7
"""Share of the steps before the learning rate falls and the linear layers compute with weights rounded to NF4."""
GRADIENT_NORM = 1.0


def train(steps: int, seed: int = SEED) -> tuple[LlamaForCausalLM, Tokenizer]:
    """The trained model in float32 and its tokenizer; prints its progress."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(
        text for document in islice(documents(seed), TOKENIZER_DOCUMENTS) for text in texts(document)
    )
    model = LlamaForCausalLM(_config(tokenizer))
    start_by_copying(model)
    model.set_attn_implementation("eager")  # on CPUs the fused one has a slow backward pass
    optimizer = AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    schedule = LambdaLR(optimizer, lambda step: _rate(step, steps))
    started = time.monotonic()
    for step, batch in enumerate(islice(batches(tokenizer, seed, TOKENS_PER_STEP), steps)):
        if step == int(steps * FLOAT_SHARE):
            nf4.start(model)
        loss = _learn(model, optimizer, batch)
        schedule.step()
        if step % 25 == 0:
            print(f"step {step}/{steps}  loss {loss:.4f}  {time.monotonic() - started:.0f} s", flush=True)
    nf4.stop(model)
    return model, tokenizer


@torch.no_grad()
def start_by_copying(model: LlamaForCausalLM) -> None:
    """Lets every head write what it reads, because tasks that copy words are learned last.

    After "Mimetic Initialization of Self-Attention Layers", https://arxiv.org/abs/2305.09828.
    """
    for module in model.modules():
        if isinstance(module, LlamaAttention):
            values: Tensor = module.v_proj.weight.view(-1, 1, module.head_dim, module.v_proj.in_features)
            module.o_proj.weight.copy_(values.expand(-1, module.num_key_value_groups, -1, -1).flatten(0, 2).T)


def _learn(model: LlamaForCausalLM, optimizer: AdamW, batch: Batch) -> float:
    """One step of the optimizer; returns the loss before it, in nats per token."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss: Tensor = model(
            input_ids=batch.ids, labels=batch.labels, position_ids=batch.positions, use_cache=False
        ).loss
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
    optimizer.step()
    return loss.item()


def _rate(step: int, steps: int) -> float:
    """The learning rate as a share of the highest one: up over the warm-up, then level, at last down to nothing."""
    rising = (step + 1) / WARMUP_STEPS
    falling = (steps - step) / (steps - int(steps * FLOAT_SHARE))
    return min(rising, 1.0, falling)


def _config(tokenizer: Tokenizer) -> LlamaConfig:
    """A small Llama, all of whose sizes are multiples of 64, as the 4-bit kernels want them."""
    return LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        initializer_range=256**-0.5,  # with the usual 0.02 rare tokens fall together before they are learned
        bos_token_id=tokenizer.token_to_id(BEGIN),
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=tokenizer.token_to_id(PAD),
    )


def main() -> None:
    """Trains and saves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the checkpoint goes (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    model, tokenizer = train(arguments.steps)
    save(model, tokenizer, arguments.folder)


if __name__ == "__main__":
    main()
