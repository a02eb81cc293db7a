import pytest
import torch

from bench.closed_loop import padded_share
from worker.memory.batch import Batch
from worker.memory.storage import Storage


def test_the_padded_share_is_what_no_row_has_a_token_in() -> None:
    batch = Batch(Storage([], tokens=64, rows=4), torch.device("cpu"))
    batch.view(2, 16)
    batch.lengths, batch.slab.window.start, batch.slab.window.end = [10, 6], 2, 12
    assert padded_share(batch) == pytest.approx(4 / 20)


def test_an_empty_batch_has_no_padding() -> None:
    assert padded_share(Batch(Storage([], tokens=64, rows=4), torch.device("cpu"))) == 0.0
