"""The running batch: rows stay what they are while others come, go and make the window slide."""

import random

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.batch import Batch
from worker.group import PrefillGroup
from worker.scheduler import compact
from worker.slab import LayerShape, Slab, Storage

CPU = torch.device("cpu")
SHAPE = LayerShape(key_heads=1, key_dim=1, value_heads=1, value_dim=1, dtype=torch.float32, device=CPU)
ROWS, LONGEST = 4, 20


def write(slab: Slab, rows: list[list[int]]) -> None:
    states = torch.tensor(rows, dtype=torch.float32)[:, None, :, None]
    slab.layers[0].update(states, states)


def read_group(prompts: list[list[int]]) -> PrefillGroup:
    """Returns a group whose cache holds the token ids themselves."""
    prompts = sorted(prompts, key=len, reverse=True)
    group = PrefillGroup(Storage([SHAPE], 512), prompts, pad_token_id=0, device=CPU)
    write(group.slab, group.input_ids.tolist())
    group.advance(len(prompts[0]))
    return group


def contents(batch: Batch) -> list[list[int]]:
    """Returns the tokens of each row as its mask shows them."""
    window = batch.slab.window
    keys = batch.slab.layers[0].buffers[0][: window.rows, 0, window.start : window.end, 0].int()
    mask = batch.attention_mask()[:, :-1].bool()
    return [row[shown].tolist() for row, shown in zip(keys, mask, strict=True)]


def decode(batch: Batch, rows: list[list[int]], token: int) -> None:
    """Gives each row a new token, as a decode step does."""
    batch.make_room()
    write(batch.slab, [[token + row] for row in range(len(rows))])
    batch.advance()
    for number, row in enumerate(rows):
        row.append(token + number)


def check(batch: Batch, rows: list[list[int]]) -> None:
    assert contents(batch) == rows
    assert batch.width == max(map(len, rows), default=0)
    assert batch.attention_mask().shape == (len(rows), batch.width + 1)
    assert batch.position_ids().flatten().tolist() == [len(row) for row in rows]


@given(st.integers(0, 10**9), st.sampled_from([LONGEST, 22, 30]))
@settings(max_examples=60, deadline=None)
def test_rows_keep_their_tokens_in_any_history(seed: int, columns: int) -> None:
    rng = random.Random(seed)
    batch = Batch([SHAPE], ROWS, columns, CPU)
    rows: list[list[int]] = []
    for _ in range(60):
        keep = [len(row) < LONGEST and rng.random() < 0.9 for row in rows]
        if (order := compact(keep)) is not None:
            batch.filter(order)
            rows = [rows[row] for row in order]
        check(batch, rows)
        if rows:
            decode(batch, rows, rng.randrange(100, 900))
        if len(rows) < ROWS and rng.random() < 0.3:
            count = rng.randint(1, ROWS - len(rows))
            group = read_group([[rng.randrange(1, 99)] * rng.randint(1, LONGEST - 1) for _ in range(count)])
            batch.concatenate(group)
            rows += [ids[-length:] for ids, length in zip(group.input_ids.tolist(), group.lengths, strict=True)]
        check(batch, rows)


def test_masks_and_positions_of_two_rows_worked_out_by_hand() -> None:
    batch = Batch([SHAPE], ROWS, 8, CPU)
    batch.concatenate(read_group([[5, 6, 7], [8]]))
    assert batch.attention_mask().tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert batch.position_ids().tolist() == [[3], [1]]


def test_the_window_narrows_to_the_longest_row_that_stays() -> None:
    batch = Batch([SHAPE], ROWS, 8, CPU)
    batch.concatenate(read_group([[5, 6, 7], [8]]))
    batch.filter([1])
    assert batch.width == 1
    assert batch.slides == 0


def test_a_joiner_that_fits_left_of_the_clock_moves_nothing() -> None:
    batch = Batch([SHAPE], ROWS, 8, CPU)
    batch.concatenate(read_group([[5, 6, 7]]))
    batch.concatenate(read_group([[8, 9, 10]]))
    assert batch.slides == 0
    batch.concatenate(read_group([[1, 2, 3, 4]]))
    assert batch.slides == 1


def test_the_window_slides_only_when_the_right_edge_is_reached() -> None:
    batch, rows = Batch([SHAPE], ROWS, 6, CPU), [[5, 6], [7]]
    batch.concatenate(read_group([[5, 6], [7]]))
    for _ in range(4):
        decode(batch, rows, 50)
    assert batch.slides == 0
    batch.filter([1])
    del rows[0]
    decode(batch, rows, 60)
    assert batch.slides == 1
    check(batch, rows)


def test_a_cleared_batch_is_empty_and_can_be_used_again() -> None:
    batch = Batch([SHAPE], ROWS, 6, CPU)
    batch.concatenate(read_group([[5, 6], [7]]))
    batch.clear()
    check(batch, [])
    batch.concatenate(read_group([[8]]))
    check(batch, [[8]])
