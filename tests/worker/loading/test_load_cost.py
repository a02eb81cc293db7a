"""What a load is said to have cost."""

import mmap
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from worker.loading import load_report as load_cost
from worker.loading.load_report import LoadCost, peak_bytes

MIB = 2**20


def test_the_parts_add_up_to_the_whole_time(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 102.0, 102.5, 102.5])
    monkeypatch.setattr(load_cost, "time", SimpleNamespace(monotonic=lambda: next(times), time=time.time))
    cost = LoadCost()
    cost.end("tokenizer")
    cost.end("weights")
    assert cost.parts == [("tokenizer", 2.0), ("weights", 0.5)]
    assert sum(seconds for _, seconds in cost.parts) == cost.seconds
    assert str(cost).startswith("tokenizer 2.00 s, weights 0.50 s, begun ")


def test_the_peak_is_what_was_held_though_it_is_no_more() -> None:
    process = psutil.Process()
    beyond = peak_bytes() - process.memory_info().rss + 32 * MIB
    # Not from the allocator, which may keep what is freed.
    with mmap.mmap(-1, beyond) as held:
        held.write(b"1" * beyond)
        most = process.memory_info().rss
    # The kernel counts pages in batches.
    assert process.memory_info().rss < most - 16 * MIB < peak_bytes()


def test_where_linux_does_not_tell_the_peak_nothing_is_said_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(load_cost, "_STATUS", tmp_path / "status")
    assert peak_bytes() == 0
    assert "at most" not in str(LoadCost())
