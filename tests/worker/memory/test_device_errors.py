"""Errors that say that memory has run out, in all the words that torch and the libraries under it have for it."""

import pytest
import torch

from worker.memory.device_errors import is_out_of_memory, may_pass


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported asynchronously"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_an_allocation_that_failed_is_known_by_whatever_words(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert may_pass(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("CUDA out of memory is what a prompt may say"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"),
        RuntimeError("out of resources: shared memory, Required: 131072, Hardware limit: 101376"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_others_are_not(error: Exception) -> None:
    assert not is_out_of_memory(error)
