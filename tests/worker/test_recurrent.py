"""Models with recurrent layers: each row has its states to itself, whoever joins, leaves or changes places."""

import inspect
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import DynamicCache

from tests.worker.recurrent_models import FAMILIES, VOCAB_SIZE, bamba, build, jamba, mamba, mamba2
from worker.domain.plan import Chunk
from worker.loading.probe import layer_layouts
from worker.memory.batch import Batch
from worker.memory.group import ChunkInput, PrefillGroup
from worker.memory.layout import prefills_whole
from worker.memory.slab import Slab
from worker.memory.storage import Storage
from worker.runners.model_runner import ModelRunner

CPU = torch.device("cpu")
TOLERANCE = 1e-4


class Alone:
    """One row in a cache of transformers' own: what the batch must equal."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.cache = DynamicCache(config=model.config)
        self.length = 0

    def fork(self) -> "Alone":
        other = Alone(self.model)
        other.cache, other.length = deepcopy(self.cache), self.length
        return other

    def feed(self, tokens: list[int]) -> Tensor:
        """Returns the logits that follow the tokens."""
        begin, self.length = self.length, self.length + len(tokens)
        if "cache_params" in inspect.signature(self.model.forward).parameters:
            given: dict[str, Any] = {"cache_params": self.cache}
        else:
            mask, positions = torch.ones(1, self.length, dtype=torch.long), torch.arange(begin, self.length)[None]
            given = {"past_key_values": self.cache, "attention_mask": mask, "position_ids": positions}
        logits: Tensor = self.model(input_ids=torch.tensor([tokens]), use_cache=True, **given).logits
        return logits[0, -1]


@dataclass
class Trial:
    """A batch of one model, and each of its rows alone."""

    model: Any
    rows: list[Alone] = field(default_factory=list)
    worst: float = 0.0
    """Largest difference of any logit from those of the row alone."""

    def __post_init__(self) -> None:
        layouts = layer_layouts(self.model)
        self.runner = ModelRunner.for_model(self.model, CPU)
        self.batch = Batch(Storage(layouts, 256, 8), CPU)
        self.group_storage = Storage(layouts, 128, 8)
        self.random = torch.Generator().manual_seed(1)

    def tokens(self, count: int) -> list[int]:
        return torch.randint(2, VOCAB_SIZE, (count,), generator=self.random).tolist()

    def join(self, *lengths: int, copies: tuple[int, ...] = (1, 1, 1)) -> None:
        """Prefills prompts of these lengths, longest first, as one group and takes them into the batch."""
        prompts = [self.tokens(length) for length in lengths]
        group = PrefillGroup(self.group_storage, prompts, pad_token_id=0, device=CPU)
        joining = [Alone(self.model) for _ in prompts]
        self.compare(self.runner.prefill(group, Chunk(0, lengths[0])), joining, prompts)
        self.batch.concatenate(group, copies[: len(prompts)])
        self.rows += [row.fork() for row, count in zip(joining, copies, strict=False) for _ in range(count)]

    def decode(self, steps: int) -> None:
        for _ in range(steps):
            tokens = self.tokens(len(self.rows))
            self.compare(self.runner.decode(self.batch, tokens), self.rows, [[token] for token in tokens])

    def filter(self, order: list[int]) -> None:
        self.batch.filter(order)
        self.rows = [self.rows[row].fork() for row in order]

    def compare(self, logits: Tensor, rows: list[Alone], tokens: list[list[int]]) -> None:
        alone = torch.stack([row.feed(given) for row, given in zip(rows, tokens, strict=True)])
        assert logits.shape == alone.shape
        self.worst = max(self.worst, float((logits - alone).abs().nan_to_num(nan=float("inf")).max()))


@torch.inference_mode()
def a_life_of_a_batch(trial: Trial) -> None:
    """Rows join in groups of several lengths, fork, leave, change places, and the memory is viewed anew."""
    trial.batch.view(4, 40)
    trial.join(6)
    trial.decode(3)
    trial.join(9, 2, 1)
    trial.decode(3)
    trial.filter([3, 1, 2])
    trial.decode(2)
    trial.filter([1, 2, 0, 1])
    trial.batch.view(6, 32)
    trial.decode(2)
    trial.join(5, copies=(2,))
    trial.decode(10)
    trial.filter([1, 5, 4])
    trial.decode(8)
    trial.filter([])
    trial.join(3, 1)
    trial.decode(2)


@pytest.mark.parametrize("config", FAMILIES)
def test_each_row_has_the_logits_of_the_model_alone(config: Callable[[], PreTrainedConfig]) -> None:
    trial = Trial(build(config()))
    a_life_of_a_batch(trial)
    assert trial.worst < TOLERANCE
    assert trial.batch.slides > 0
    assert trial.batch.reviews > 0


@pytest.mark.parametrize("config", FAMILIES)
def test_prompts_are_read_whole(config: Callable[[], PreTrainedConfig]) -> None:
    assert prefills_whole(layer_layouts(build(config())))


@pytest.mark.parametrize("config", [mamba, jamba])
@torch.inference_mode()
def test_a_longest_prompt_that_is_cancelled_before_it_was_read_changes_nothing(
    config: Callable[[], PreTrainedConfig],
) -> None:
    trial = Trial(build(config()))
    prompts = [trial.tokens(9), trial.tokens(5), trial.tokens(2)]
    group = PrefillGroup(trial.group_storage, prompts, pad_token_id=0, device=CPU)
    group.filter([1, 2])
    logits = trial.runner.prefill(group, Chunk(4, 9))
    trial.compare(logits, [Alone(trial.model), Alone(trial.model)], prompts[1:])
    assert trial.worst < TOLERANCE


@pytest.mark.parametrize("config", [mamba2, bamba])
@torch.inference_mode()
def test_a_broken_row_harms_no_other_and_not_the_next_in_its_place(config: Callable[[], PreTrainedConfig]) -> None:
    trial = Trial(build(config()))
    trial.batch.view(3, 32)
    trial.join(5, 4, 2)
    for buffer in trial.batch.slab.token_buffers + trial.batch.slab.state_buffers:
        buffer[2] = torch.nan
    logits = trial.runner.decode(trial.batch, [2, 3, 4])
    assert logits[2].isnan().any()
    trial.compare(logits[:2], trial.rows[:2], [[2], [3]])
    trial.batch.clear_row(2)
    trial.filter([0, 1])
    trial.join(8)
    trial.decode(3)
    assert trial.worst < TOLERANCE


def unmasked(group: PrefillGroup, begin: int, end: int) -> ChunkInput:
    given = CHUNK(group, begin, end)
    return replace(given, attention_mask=torch.ones_like(given.attention_mask))


CHUNK = PrefillGroup.chunk
MISTAKES: dict[str, tuple[type, str, Any]] = {
    "padding is read": (PrefillGroup, "chunk", unmasked),
    "states stay behind": (Slab, "state_buffers", ()),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("config", [mamba, bamba])
def test_the_comparison_notices_when(
    mistake: str, config: Callable[[], PreTrainedConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*MISTAKES[mistake])
    trial = Trial(build(config()))
    a_life_of_a_batch(trial)
    assert trial.worst > 100 * TOLERANCE
