"""What the model is given: only what its forward pass takes, and logits for as few positions as are wanted."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.worker.recurrent_models import bamba, build, mamba2
from tests.worker.tiny_models import tiny_llama
from worker.domain.plan import Chunk
from worker.loading.probe import layer_layouts
from worker.memory.batch import Batch
from worker.memory.group import PrefillGroup
from worker.memory.layout import Layout
from worker.memory.storage import Storage
from worker.runners.model_runner import ModelRunner

CPU = torch.device("cpu")
PROMPTS = [[5, 6, 7, 8], [9, 10]]


class Recording(nn.Module):
    """A model that notes what it is given; its logits are the tokens given."""

    def note(self, **given: Any) -> SimpleNamespace:
        self.given = given
        return SimpleNamespace(logits=given["input_ids"][..., None].float())


class Modern(Recording):
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: Any,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> SimpleNamespace:
        return self.note(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, logits_to_keep=logits_to_keep
        )


class Plain(Recording):
    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, past_key_values: Any, **kwargs: Any
    ) -> SimpleNamespace:
        return self.note(input_ids=input_ids, attention_mask=attention_mask)


class Stateful(Recording):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, cache_params: Any, **kwargs: Any) -> SimpleNamespace:
        return self.note(input_ids=input_ids, attention_mask=attention_mask)


def read(model: Recording) -> tuple[PrefillGroup, ModelRunner]:
    """Prefills the first three columns, so that one is left."""
    group = PrefillGroup(Storage([Layout()], 16, 2), PROMPTS, pad_token_id=0, device=CPU)
    runner = ModelRunner.for_model(model, CPU)
    assert runner.prefill(group, Chunk(0, 3)).tolist() == [[7], [9]]
    return group, runner


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (Modern(), {"input_ids", "attention_mask", "position_ids", "logits_to_keep"}),
        (Plain(), {"input_ids", "attention_mask"}),
        (Stateful(), {"input_ids", "attention_mask"}),
    ],
)
def test_a_model_is_given_what_its_forward_pass_takes(model: Recording, names: set[str]) -> None:
    read(model)
    assert set(model.given) == names


def test_a_mask_covers_the_columns_read_before_but_for_models_that_want_it_for_the_new_ones() -> None:
    for model, mask in ((Plain(), [[1, 1, 1, 1], [0, 0, 1, 1]]), (Stateful(), [[1], [1]])):
        group, runner = read(model)
        runner.prefill(group, Chunk(3, 4))
        assert model.given["attention_mask"].tolist() == mask


@pytest.mark.parametrize("model", [Modern(), Plain()], ids=["kept by the model", "kept by us"])
def test_logits_are_of_the_last_column_unless_all_are_wanted(model: Recording) -> None:
    group, runner = read(model)
    assert runner.prefill(group, Chunk(3, 4)).tolist() == [[8], [10]]
    group, runner = read(model)
    assert runner.prefill(group, Chunk(2, 4), all_positions=True).tolist() == [[[7], [8]], [[9], [10]]]


def test_a_model_that_can_computes_no_other_logits() -> None:
    model = Modern()
    group, runner = read(model)
    assert model.given["logits_to_keep"] == 1
    runner.prefill(group, Chunk(3, 4), all_positions=True)
    assert model.given["logits_to_keep"] == 0


@pytest.mark.parametrize("make", [tiny_llama, lambda: build(mamba2()), lambda: build(bamba())])
@torch.inference_mode()
def test_logits_of_all_positions_are_those_of_the_model_alone(make: Callable[[], Any]) -> None:
    model = make()
    group = PrefillGroup(Storage(layer_layouts(model), 16, 2), PROMPTS, pad_token_id=0, device=CPU)
    logits = ModelRunner.for_model(model, CPU).prefill(group, Chunk(0, 4), all_positions=True)
    for row, prompt in enumerate(PROMPTS):
        alone = model(input_ids=torch.tensor([prompt])).logits[0]
        torch.testing.assert_close(logits[row, -len(prompt) :], alone, atol=1e-4, rtol=0)


def test_decode_gives_each_row_its_newest_token_and_counts_it_in() -> None:
    model = Plain()
    group, runner = read(model)
    runner.prefill(group, Chunk(3, 4))
    batch = Batch(Storage([Layout()], 16, 2), CPU)
    batch.view(2, 8)
    batch.concatenate(group, [1, 1])
    assert runner.decode(batch, [3, 4]).tolist() == [[3], [4]]
    assert model.given["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert batch.lengths == [5, 3]
