"""The prefill group: what the model is given for each chunk, on small examples worked out by hand."""

import pytest
import torch

from tests.worker.tiny_models import tiny_llama
from worker.domain.plan import Chunk
from worker.loading.probe import layer_layouts
from worker.memory.group import ChunkInput, PrefillGroup
from worker.memory.layout import Layout, RecurrentShape, StateShape, TokenShape
from worker.memory.slab import Slab
from worker.memory.storage import Storage
from worker.runners.model_runner import ModelRunner

CPU = torch.device("cpu")
TOKEN = TokenShape(key_heads=1, key_dim=1, value_heads=1, value_dim=1, dtype=torch.float32, device=CPU)
STATES = RecurrentShape(StateShape((2, 3), torch.float32, CPU), StateShape((4,), torch.float32, CPU))
LAYOUTS = [Layout(TOKEN, (STATES,))]
PAD = 99


def group(*prompts: list[int]) -> PrefillGroup:
    return PrefillGroup(Storage(LAYOUTS, 512, 4), prompts, pad_token_id=PAD, device=CPU)


def lists(given: ChunkInput) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    return given.input_ids.tolist(), given.attention_mask.tolist(), given.position_ids.tolist()


def test_the_whole_group_in_one_chunk_is_left_padded() -> None:
    assert lists(group([5, 6, 7, 8], [9, 10]).chunk(0, 4)) == (
        [[5, 6, 7, 8], [PAD, PAD, 9, 10]],
        [[1, 1, 1, 1], [0, 0, 1, 1]],
        [[0, 1, 2, 3], [0, 0, 0, 1]],
    )


def test_a_row_enters_with_the_chunk_that_holds_its_first_token() -> None:
    three = group([5, 6, 7, 8], [9, 10], [11])
    assert lists(three.chunk(0, 2)) == ([[5, 6]], [[1, 1]], [[0, 1]])
    assert lists(three.chunk(2, 3)) == ([[7], [9]], [[1, 1, 1], [0, 0, 1]], [[2], [0]])
    assert lists(three.chunk(3, 4)) == (
        [[8], [10], [11]],
        [[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]],
        [[3], [1], [0]],
    )


def test_padding_within_a_chunk_has_position_zero_and_is_masked() -> None:
    assert lists(group([5, 6, 7, 8], [9, 10]).chunk(1, 4)) == (
        [[6, 7, 8], [PAD, 9, 10]],
        [[1, 1, 1, 1], [0, 0, 1, 1]],
        [[1, 2, 3], [0, 0, 1]],
    )


def test_a_filtered_group_keeps_its_columns_and_the_rows_that_stay() -> None:
    three = group([5, 6, 7, 8], [9, 10], [11])
    three.filter([1, 2])
    assert three.lengths == [2, 1]
    assert three.slab.window.rows == 2
    assert lists(three.chunk(2, 4)) == (
        [[9, 10], [PAD, 11]],
        [[0, 0, 1, 1], [0, 0, 0, 1]],
        [[0, 1], [0, 0]],
    )


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("chunk_columns", [40, 7, 3])
def test_everything_in_the_cache_stays_finite_with_padding_in_it(attention: str, chunk_columns: int) -> None:
    model = tiny_llama(attn_implementation=attention)
    prompts = [list(range(2, 2 + length)) for length in (40, 17, 3, 1)]
    four = PrefillGroup(Storage(layer_layouts(model), 512, 4), prompts, pad_token_id=0, device=CPU)
    runner = ModelRunner.for_model(model, CPU)
    chunks = [Chunk(begin, min(40, begin + chunk_columns)) for begin in range(0, 40, chunk_columns)]
    with torch.inference_mode():
        logits = [runner.prefill(four, chunk) for chunk in chunks]
    assert logits[-1].shape[0] == 4
    assert all(each.isfinite().all() for each in logits)
    assert all(buffer.isfinite().all() for buffer in four.slab.token_buffers)


def test_a_group_finds_nothing_of_the_group_before_it() -> None:
    storage = Storage(LAYOUTS, 8, 2)
    before = Slab(storage, 2, 4)
    buffers = before.token_buffers + before.state_buffers
    for buffer in buffers:
        buffer.fill_(torch.nan)

    one = PrefillGroup(storage, [[5, 6, 7], [9]], pad_token_id=PAD, device=CPU)

    found = one.slab.token_buffers + one.slab.state_buffers
    assert [buffer.data_ptr() for buffer in found] == [buffer.data_ptr() for buffer in buffers]
    assert all(not buffer.any() for buffer in found)


def test_columns_before_the_first_token_are_no_memory() -> None:
    two = group([5, 6, 7, 8], [9, 10])
    two.filter([1])
    two.skip_to(2)
    assert lists(two.chunk(2, 4)) == ([[9, 10]], [[1, 1]], [[0, 1]])
    assert two.slab.window.width == 0


def test_columns_without_a_token_between_two_chunks_are_masked() -> None:
    two = group([5, 6, 7, 8, 9], [10, 11])
    two.advance(1)
    two.filter([1])
    two.skip_to(3)
    assert lists(two.chunk(3, 5)) == ([[10, 11]], [[0, 0, 0, 1, 1]], [[0, 1]])


def test_targets_are_the_tokens_one_column_on() -> None:
    two = group([5, 6, 7, 8], [9, 10])
    assert two.targets(0, 2).tolist() == [[6, 7]]
    assert two.targets(1, 3).tolist() == [[7, 8], [9, 10]]


def test_the_last_column_predicts_no_token_of_the_prompt() -> None:
    two = group([5, 6, 7, 8], [9, 10])
    assert two.targets(2, 4).tolist() == [[8], [10]]
    assert two.targets(3, 4).tolist() == [[], []]
