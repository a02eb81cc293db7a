"""The running batch: rows stay what they are while others come, go and make the window slide."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.examples import examples
from worker.memory.batch import Batch
from worker.memory.cache_layers import AttentionLayer
from worker.memory.group import PrefillGroup
from worker.memory.layout import Layout, RecurrentShape, StateShape, TokenShape
from worker.memory.slab import Slab
from worker.memory.storage import Storage

CPU = torch.device("cpu")
STATE = RecurrentShape(None, StateShape((), torch.float32, CPU))
TOKEN = TokenShape(key_heads=2, key_dim=1, value_heads=1, value_dim=3, dtype=torch.float32, device=CPU)
LAYOUTS = [Layout(TOKEN, (STATE,))]
ROWS, LONGEST = 6, 20
TOKENS = ROWS * 14


def write(slab: Slab, rows: list[list[int]]) -> None:
    """Writes token ids as keys and values, and the newest one as state."""
    layer = slab.layers[0]
    assert isinstance(layer, AttentionLayer)
    states = torch.tensor(rows, dtype=torch.float32)[:, None, :, None]
    layer.update(states.expand(-1, 2, -1, 1), states.expand(-1, 1, -1, 3))
    slab.state_buffers[0][: len(rows)] = states[:, 0, -1, 0]


def read_group(prompts: list[list[int]]) -> PrefillGroup:
    """Returns a group whose cache holds the token ids themselves."""
    prompts = sorted(prompts, key=len, reverse=True)
    group = PrefillGroup(Storage(LAYOUTS, 512, ROWS), prompts, pad_token_id=0, device=CPU)
    write(group.slab, group.input_ids.tolist())
    group.advance(len(prompts[0]))
    return group


def in_window(batch: Batch) -> list[Tensor]:
    """Returns keys and values as [rows, columns], the heads and dimensions being equal."""
    window = batch.slab.window
    shown = [buffer[: window.rows, :, window.start : window.end] for buffer in batch.slab.token_buffers]
    assert all(torch.equal(each, each[:, :1, :, :1].expand_as(each)) for each in shown)
    return [each[:, 0, :, 0] for each in shown]


def poison(batch: Batch) -> None:
    """Puts NaN everywhere but in the window: whatever an earlier row or view may have left."""
    slab, window = batch.slab, batch.slab.window
    tokens = slab.storage.layers[0].tokens
    assert tokens is not None
    for flat, buffer in zip((tokens.keys, tokens.values), slab.token_buffers, strict=True):
        kept = buffer[: window.rows, :, window.start : window.end].clone()
        flat.fill_(torch.nan)
        buffer[: window.rows, :, window.start : window.end] = kept
    slab.state_buffers[0][window.rows :] = torch.nan


def decode(batch: Batch, rows: list[list[int]], token: int) -> None:
    """Gives each row a new token, as a decode step does."""
    batch.make_room()
    write(batch.slab, [[token + row] for row in range(len(rows))])
    batch.advance()
    for number, row in enumerate(rows):
        row.append(token + number)


def check(batch: Batch, rows: list[list[int]]) -> None:
    """The window holds the rows' tokens and zeros, the states are the newest ones, the mask shows which is which."""
    width = max(map(len, rows), default=0)
    padded = [[0] * (width - len(row)) + row for row in rows]
    for shown in in_window(batch):
        assert shown.tolist() == padded
    assert batch.slab.state_buffers[0][: len(rows)].tolist() == [row[-1] for row in rows]
    assert batch.width == width
    assert batch.attention_mask().tolist() == [[int(token > 0) for token in row] + [1] for row in padded]
    assert batch.position_ids().flatten().tolist() == [len(row) for row in rows]


def new_batch(rows: int = 4, columns: int = 8) -> Batch:
    batch = Batch(Storage(LAYOUTS, TOKENS, ROWS), CPU)
    batch.view(rows, columns)
    return batch


class History:
    """What happens to a batch at random, and the tokens that its rows must have."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.batch = new_batch()
        self.rows: list[list[int]] = []

    @property
    def width(self) -> int:
        return max(map(len, self.rows), default=0)

    def filter(self) -> None:
        """Some rows leave, the others change places, and some are doubled."""
        order = [row for row, tokens in enumerate(self.rows) if len(tokens) < LONGEST and self.random.random() < 0.8]
        self.random.shuffle(order)
        if order:
            order += self.random.choices(order, k=self.random.randint(0, self.batch.slab.rows - len(order)))
        self.batch.filter(order)
        self.rows = [list(self.rows[row]) for row in order]

    def view(self) -> None:
        rows = self.random.randint(max(1, len(self.rows)), ROWS)
        if self.width <= TOKENS // rows:
            self.batch.view(rows, self.random.randint(max(1, self.width), TOKENS // rows))

    def decode(self) -> None:
        if self.rows and self.width < self.batch.slab.columns:
            decode(self.batch, self.rows, self.random.randrange(100, 900))

    def concatenate(self) -> None:
        slab = self.batch.slab
        copies = [self.random.randint(0, 2) for _ in range(self.random.randint(1, 3))]
        if len(self.rows) + sum(copies) <= slab.rows:
            longest = min(LONGEST, slab.columns)
            prompts = [[self.random.randrange(1, 99)] * self.random.randint(1, longest) for _ in copies]
            prompts.sort(key=len, reverse=True)
            self.batch.concatenate(read_group(prompts), copies)
            self.rows += [list(row) for row, count in zip(prompts, copies, strict=True) for _ in range(count)]


@examples(given(st.integers(0, 10**9)), few=15, many=60)
def test_rows_keep_their_tokens_in_any_history(seed: int) -> None:
    history = History(seed)
    for _ in range(80):
        happens = history.random.choice([history.filter, history.view, history.concatenate, *[history.decode] * 3])
        poison(history.batch)
        happens()
        check(history.batch, history.rows)


def test_masks_and_positions_of_two_rows_worked_out_by_hand() -> None:
    batch = new_batch()
    batch.concatenate(read_group([[5, 6, 7], [8]]), [1, 1])
    assert batch.attention_mask().tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert batch.position_ids().tolist() == [[3], [1]]


def test_a_group_row_joins_as_often_as_asked() -> None:
    batch = new_batch()
    batch.concatenate(read_group([[5, 6, 7], [8, 9], [3]]), [2, 0, 1])
    check(batch, [[5, 6, 7], [5, 6, 7], [3]])


def test_the_window_narrows_to_the_longest_row_that_stays() -> None:
    batch = new_batch()
    batch.concatenate(read_group([[5, 6, 7], [8]]), [1, 1])
    batch.filter([1])
    check(batch, [[8]])
    assert batch.slides == 0


def test_a_joiner_that_fits_left_of_the_clock_moves_nothing() -> None:
    batch = new_batch()
    batch.concatenate(read_group([[5, 6, 7]]), [1])
    batch.concatenate(read_group([[8, 9, 10]]), [1])
    assert batch.slides == 0
    batch.concatenate(read_group([[1, 2, 3, 4]]), [1])
    assert batch.slides == 1
    check(batch, [[5, 6, 7], [8, 9, 10], [1, 2, 3, 4]])


def test_the_window_slides_only_when_the_right_edge_is_reached() -> None:
    batch, rows = new_batch(columns=6), [[5, 6], [7]]
    batch.concatenate(read_group([[5, 6], [7]]), [1, 1])
    for _ in range(4):
        decode(batch, rows, 50)
    assert batch.slides == 0
    batch.filter([1])
    del rows[0]
    decode(batch, rows, 60)
    assert batch.slides == 1
    check(batch, rows)


def test_only_views_that_copy_live_rows_are_counted() -> None:
    batch = new_batch()
    batch.view(2, 20)
    assert batch.reviews == 0
    batch.concatenate(read_group([[5, 6, 7], [8]]), [1, 1])
    batch.view(6, 10)
    assert batch.reviews == 1
    check(batch, [[5, 6, 7], [8]])


def test_a_row_that_fills_the_view_goes_on_in_a_wider_one() -> None:
    batch, rows = new_batch(columns=3), [[5, 6, 7], [8]]
    batch.concatenate(read_group([[5, 6, 7], [8]]), [1, 1])
    with pytest.raises(ValueError, match="all 3 columns are in use"):
        batch.make_room()
    batch.view(2, 5)
    decode(batch, rows, 50)
    check(batch, rows)
    assert batch.slides == 0


@pytest.mark.parametrize(("rows", "columns"), [(1, 8), (2, 2), (4, 22), (7, 3)])
def test_a_view_into_which_the_rows_do_not_fit_is_refused(rows: int, columns: int) -> None:
    batch = new_batch()
    batch.concatenate(read_group([[5, 6, 7], [8]]), [1, 1])
    with pytest.raises(ValueError, match=f"{columns}"):
        batch.view(rows, columns)
    check(batch, [[5, 6, 7], [8]])


@pytest.mark.parametrize(("prompt", "copies"), [([1] * 9, [1]), ([1], [4])], ids=["columns", "rows"])
def test_joiners_that_do_not_fit_are_refused_and_change_nothing(prompt: list[int], copies: list[int]) -> None:
    batch = new_batch()
    batch.concatenate(read_group([[5, 6, 7]]), [1])
    with pytest.raises(ValueError, match="do not fit beside 1 rows"):
        batch.concatenate(read_group([prompt]), copies)
    check(batch, [[5, 6, 7]])


def test_more_rows_than_the_view_has_are_refused() -> None:
    batch = new_batch(rows=2)
    batch.concatenate(read_group([[5, 6, 7]]), [1])
    with pytest.raises(ValueError, match="3 rows, but the view has 2"):
        batch.filter([0, 0, 0])


def test_a_cleared_batch_is_empty_and_can_be_used_again() -> None:
    batch = new_batch()
    batch.concatenate(read_group([[5, 6], [7]]), [1, 1])
    batch.clear()
    check(batch, [])
    batch.concatenate(read_group([[8]]), [1])
    check(batch, [[8]])


def test_a_cleared_row_is_finite_again() -> None:
    batch = new_batch()
    batch.concatenate(read_group([[5, 6], [7]]), [1, 1])
    for buffer in batch.slab.token_buffers + batch.slab.state_buffers:
        buffer[0] = torch.nan
    batch.clear_row(0)
    assert all(not buffer[0].any() for buffer in batch.slab.token_buffers + batch.slab.state_buffers)
    assert [shown[1].tolist() for shown in in_window(batch)] == [[0, 7]] * 2
