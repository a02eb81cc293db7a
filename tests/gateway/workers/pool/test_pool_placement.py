"""Dealing a machine out among its workers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.workers.pool.machine import Placement, deal

COUNTS = st.integers(1, 20)
GPUS = st.lists(st.sampled_from([*"0123456789", "GPU-8f", "MIG-3a"]), unique=True, min_size=1)


def visible(placements: list[Placement]) -> list[list[str]]:
    return [placement.environment["CUDA_VISIBLE_DEVICES"].split(",") for placement in placements]


@pytest.mark.parametrize(
    ("worker_count", "gpus", "shares"),
    [
        (2, "0123", ["0,1", "2,3"]),
        (1, "01", ["0,1"]),
        (2, "01234", ["0,1", "2,3,4"]),
        (3, "01", ["0", "1", "0"]),
        (2, "7", ["7", "7"]),
    ],
)
def test_gpus_are_dealt_in_neighbours_and_shared_in_turn(worker_count: int, gpus: str, shares: list[str]) -> None:
    placements = deal(worker_count, list(gpus), 8)
    assert placements == [Placement({"CUDA_VISIBLE_DEVICES": share}, ()) for share in shares]


@given(COUNTS, GPUS)
def test_every_gpu_is_used_and_shares_differ_by_one_at_most(worker_count: int, gpus: list[str]) -> None:
    shares = visible(deal(worker_count, gpus, 1))
    sizes = {len(share) for share in shares}
    assert len(shares) == worker_count
    assert max(sizes) - min(sizes) <= 1
    assert {gpu for share in shares for gpu in share} == set(gpus)


@given(COUNTS, GPUS)
def test_enough_gpus_are_dealt_once_each_and_in_order(worker_count: int, gpus: list[str]) -> None:
    shares = visible(deal(worker_count, gpus * worker_count, 1))
    assert [gpu for share in shares for gpu in share] == gpus * worker_count


@pytest.mark.parametrize(("worker_count", "cpus", "threads"), [(1, 2, "2"), (2, 8, "4"), (3, 8, "2"), (4, 2, "1")])
def test_cpu_threads_are_dealt_evenly_and_at_least_one(worker_count: int, cpus: int, threads: str) -> None:
    assert deal(worker_count, [], cpus) == [Placement({}, ("--threads", threads))] * worker_count


def test_a_placement_reads_as_in_a_shell() -> None:
    assert str(Placement({"CUDA_VISIBLE_DEVICES": "0,1"}, ("--threads", "4"))) == "CUDA_VISIBLE_DEVICES=0,1 --threads 4"
