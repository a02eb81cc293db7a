"""Deals the GPUs or the CPU threads of a machine out among its workers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """What one worker gets of the machine."""

    environment: Mapping[str, str]
    """Variables to set for the worker, over those that it inherits."""

    flags: tuple[str, ...]
    """Flags to add to the worker's command."""

    def __str__(self) -> str:
        return " ".join([*(f"{name}={value}" for name, value in self.environment.items()), *self.flags])


def deal(worker_count: int, gpu_ids: Sequence[str], cpu_count: int) -> list[Placement]:
    """Returns the placement of each worker.

    GPUs are dealt evenly, neighbours together because they tend to be linked; workers in excess of them share them in
    turn. Without GPUs each worker gets an equal number of CPU threads, at least 1.
    """
    if gpu_ids:
        return [_on_gpus(_share(worker, worker_count, gpu_ids)) for worker in range(worker_count)]
    threads = max(1, cpu_count // worker_count)
    return [Placement({}, ("--threads", str(threads)))] * worker_count


def _share(worker: int, worker_count: int, gpu_ids: Sequence[str]) -> Sequence[str]:
    gpu_count = len(gpu_ids)
    if gpu_count < worker_count:
        return [gpu_ids[worker % gpu_count]]
    return gpu_ids[worker * gpu_count // worker_count : (worker + 1) * gpu_count // worker_count]


def _on_gpus(gpu_ids: Sequence[str]) -> Placement:
    return Placement({"CUDA_VISIBLE_DEVICES": ",".join(gpu_ids)}, ())
