"""What the runner of the C code does at the edges: chunks, prompts' logits, failures, values that are not finite."""

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.worker.runners.native.accuracy import Errors, spoil
from tests.worker.runners.native.models import CASES, Case, bfloat16_model, exact_copy
from worker.domain.plan import Chunk
from worker.loading.probe import layer_layouts
from worker.memory.batch import Batch
from worker.memory.group import PrefillGroup
from worker.memory.storage import Storage
from worker.runners.native import structures
from worker.runners.native.library import Library
from worker.runners.native.runner import NativeRunner
from worker.runners.runner import Prefill

CPU = torch.device("cpu")
PROMPTS = [[(7 * place + 13 * row) % 300 + 2 for place in range(length)] for row, length in enumerate((45, 30, 7))]


def memory(model: Any, *, rows: int = 4, tokens: int = 512) -> Storage:
    """Returns memory full of NaN."""
    storage = Storage(layer_layouts(model), tokens, rows)
    spoil(storage)
    return storage


def group_of(model: Any, prompts: list[list[int]], tokens: int = 512) -> PrefillGroup:
    return PrefillGroup(memory(model, tokens=tokens), prompts, pad_token_id=0, device=CPU, reads_padding=False)


def prefilled(model: Any, runner: NativeRunner, prompts: list[list[int]]) -> Batch:
    """Returns a batch that has read prompts."""
    batch = Batch(memory(model), CPU)
    batch.view(4, 128)
    group = group_of(model, prompts)
    runner.step(batch, [], Prefill(group, Chunk(0, group.width)))
    batch.concatenate(group, [1] * len(prompts))
    return batch


@torch.inference_mode()
def own_logits(model: Any, tokens: list[int]) -> Tensor:
    """Returns what a model's forward pass makes of tokens, [tokens, vocabulary]."""
    logits: Tensor = model(torch.tensor([tokens]), use_cache=False).logits[0]
    return logits


def chunks(width: int, size: int) -> list[Chunk]:
    return [Chunk(begin, min(begin + size, width)) for begin in range(0, width, size)]


@pytest.mark.parametrize("size", [1, 11, 45])
@pytest.mark.parametrize("case", [CASES[0], CASES[11]], ids=str)
def test_the_logits_of_all_columns_are_those_of_the_prompts(case: Case, size: int, library: Library) -> None:
    model = bfloat16_model(case)
    runner, exact = NativeRunner(model, library), exact_copy(model)
    others = prefilled(model, runner, [[5, 6, 7], [8, 9]])
    group = group_of(model, PROMPTS)
    parts: list[list[Tensor]] = [[] for _ in PROMPTS]
    for chunk in chunks(group.width, size):
        answered = runner.step(others, [3, 4], Prefill(group, chunk, all_positions=True))
        assert answered.decoded is not None
        assert answered.decoded.shape == (2, model.config.vocab_size)
        assert answered.read is not None
        for row, logits in enumerate(answered.read):
            padding = max(0, group.width - len(PROMPTS[row]) - chunk.begin)
            assert (logits[:padding] == 0).all()
            parts[row].append(logits[padding:].clone())
    for prompt, read in zip(PROMPTS, parts, strict=True):
        wanted = own_logits(exact, prompt)
        assert Errors.of(torch.cat(read), wanted).are_like(Errors.of(own_logits(model, prompt), wanted))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_attention_heads": 1, "num_key_value_heads": 1},
        {"num_attention_heads": 72, "num_key_value_heads": 1, "hidden_size": 144},
        {"num_attention_heads": 16, "num_key_value_heads": 1, "sliding_window": 40},
    ],
    ids=["two queries for a head", "one", "more than a tile has", "a window narrower than a tile"],
)
def test_a_long_prompt_and_a_token_behind_it_fill_the_memory(settings: dict[str, int], library: Library) -> None:
    family = "MistralConfig" if "sliding_window" in settings else "LlamaConfig"
    common = {"num_hidden_layers": 1, "max_position_embeddings": 4096}
    model = bfloat16_model(Case("", family, {**common, **settings}))
    runner, exact = NativeRunner(model, library), exact_copy(model)
    prompt = [place * place % 311 + 2 for place in range(2301)]
    group = group_of(model, [prompt], tokens=len(prompt))
    batch = Batch(memory(model, tokens=len(prompt) + 1), CPU)
    read = runner.step(batch, [], Prefill(group, Chunk(0, len(prompt)), all_positions=True)).read
    assert read is not None
    read = read[0].clone()
    batch.view(1, len(prompt) + 1)
    batch.concatenate(group, [1])
    decoded = runner.step(batch, [17], None).decoded
    assert decoded is not None
    wanted = own_logits(exact, [*prompt, 17])
    own = Errors.of(own_logits(model, [*prompt, 17]), wanted)
    assert Errors.of(torch.cat((read, decoded)), wanted).are_like(own)


def test_a_chunk_that_completes_nothing_is_answered_with_no_rows(library: Library) -> None:
    model = bfloat16_model(CASES[0])
    group = group_of(model, PROMPTS)
    answered = NativeRunner(model, library).step(Batch(memory(model), CPU), [], Prefill(group, Chunk(0, 20)))
    assert answered.decoded is None
    assert answered.read is not None
    assert answered.read.shape == (0, model.config.vocab_size)
    assert group.slab.window.end == 20


def test_nothing_to_do_is_nothing_done(library: Library) -> None:
    model = bfloat16_model(CASES[0])
    answered = NativeRunner(model, library).step(Batch(memory(model), CPU), [], None)
    assert (answered.decoded, answered.read) == (None, None)


def test_no_tokens_are_no_pass(library: Library) -> None:
    library.forward(structures.Model(layer_count=1), structures.Tokens())


def test_the_logits_of_prompts_without_padding_are_not_copied(library: Library) -> None:
    model = bfloat16_model(CASES[0])
    runner = NativeRunner(model, library)
    group = group_of(model, [PROMPTS[2], PROMPTS[2]])
    read = runner.step(Batch(memory(model), CPU), [], Prefill(group, Chunk(0, 7), all_positions=True)).read
    assert read is not None
    assert read.shape == (2, 7, model.config.vocab_size)
    assert read.data_ptr() == runner._logits.data_ptr()


def test_without_memory_no_row_grows(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bfloat16_model(CASES[0])
    runner = NativeRunner(model, library)
    batch = prefilled(model, runner, PROMPTS)
    before = (list(batch.lengths), batch.slab.window.end)
    monkeypatch.setattr(library, "_forward", lambda *_: 1)
    with pytest.raises(MemoryError):
        runner.step(batch, [2, 3, 4], None)
    assert (batch.lengths, batch.slab.window.end) == before


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("part", [0, 1], ids=["keys", "values"])
def test_what_is_not_finite_in_a_row_stays_in_it_and_shows(library: Library, part: int, value: float) -> None:
    model = bfloat16_model(CASES[0])
    runner = NativeRunner(model, library)
    good, bad = (prefilled(model, runner, PROMPTS) for _ in range(2))
    row_start = bad.slab.window.end - bad.lengths[1]
    bad.slab.attention_layers[0].buffers[part][1, :, row_start + 3, :2] = value
    wanted, got = (runner.step(batch, [2, 3, 4], None).decoded for batch in (good, bad))
    assert wanted is not None
    assert got is not None
    assert not got[1].isfinite().any()
    assert torch.equal(got[[0, 2]], wanted[[0, 2]])


@pytest.mark.parametrize("case", [Case("", "Qwen3Config"), CASES[31], CASES[34]], ids=str)
def test_the_runner_keeps_every_weight_that_it_reads(case: Case, library: Library) -> None:
    model = bfloat16_model(case)
    runner = NativeRunner(model, library)
    # Of projections' biases it reads copies, in float32.
    read = [
        weight
        for module in model.modules()
        for name, weight in module.named_parameters(recurse=False)
        if name != "bias" or isinstance(module, nn.LayerNorm)
    ]
    weights = [weakref.ref(weight.untyped_storage()) for weight in read]
    del model, read
    gc.collect()
    assert runner.description.layer_count > 0
    assert all(weight() is not None for weight in weights)
