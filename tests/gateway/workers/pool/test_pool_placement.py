"""Dealing a machine out among its workers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.workers.pool.machine import Placement, deal

COUNTS = st.integers(1, 20)
GPUS = st.lists(st.sampled_from([*"0123456789", "GPU-8f", "GPU-3a"]), unique=True, min_size=1)


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
    assert visible(deal(worker_count, list(gpus), 8)) == [share.split(",") for share in shares]


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


@pytest.mark.parametrize(
    ("worker_count", "each", "gpus", "shares"),
    [
        (0, 0, "0123", ["0", "1", "2", "3"]),
        (0, 2, "0123", ["0,1", "2,3"]),
        (0, 2, "01234", ["0,1", "2,3"]),
        (0, 8, "01", ["0,1"]),
        (3, 2, "0123", ["0,1", "2,3", "0,1"]),
        (1, 1, "0123", ["0"]),
    ],
)
def test_workers_get_so_many_gpus_each(worker_count: int, each: int, gpus: str, shares: list[str]) -> None:
    dealt = deal(worker_count, list(gpus), 8, gpus_per_worker=each)
    assert visible(dealt) == [share.split(",") for share in shares]


def test_without_gpus_and_a_number_there_is_one_worker() -> None:
    assert deal(0, [], 4) == [Placement({}, ("--threads", "4"))]


def test_workers_that_share_a_gpu_are_told_how_many_they_are() -> None:
    flags = [placement.flags for placement in deal(3, ["0", "1"], 8)]
    assert flags == [("--workers-on-gpu", "2"), (), ("--workers-on-gpu", "2")]


def test_a_worker_gets_one_mig_instance_as_cuda_shows_it_no_more() -> None:
    assert visible(deal(1, ["MIG-a", "MIG-b"], 8)) == [["MIG-a"]]
    assert visible(deal(0, ["MIG-a", "MIG-b"], 8)) == [["MIG-a"], ["MIG-b"]]
