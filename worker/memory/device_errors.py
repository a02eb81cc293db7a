"""Which errors are of a device, of its memory or its loss, and not of what was asked of it."""

import torch

_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: ",  # torch's allocator for CPUs, which raises a plain RuntimeError
    "CUDA out of memory",
    "CUDA error: out of memory",  # an allocation of CUDA's own, as for a graph
    "cudaErrorMemoryAllocation",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # cuBLAS takes its workspace with the first product
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "HIP out of memory",
    "HIPBLAS_STATUS_ALLOC_FAILED",
)
"""What torch and the libraries under it say of an allocation that has failed, in errors of several types."""
_LASTING_DEVICE_ERRORS = ("device-side assert", "no kernel image is available")
"""What a device says of a model that it will never run, in errors that are otherwise those of a lost device."""


def is_out_of_memory(error: Exception) -> bool:
    """Returns whether an error says that memory could not be allocated."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def free_cached_memory() -> None:
    """Gives what torch keeps of GPUs' memory, and no tensor has, back to them."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def may_pass(error: BaseException) -> bool:
    """Returns whether a new process may do better: the error, or what caused it, is of memory or of a lost device."""
    seen: BaseException | None = error
    while isinstance(seen, Exception):
        if is_out_of_memory(seen) or is_lost_device(seen):
            return True
        seen = seen.__cause__
    return False


def is_lost_device(error: Exception) -> bool:
    """Returns whether an error says that a device does not answer any more, in this process."""
    text = str(error)
    is_of_device = isinstance(error, torch.AcceleratorError) or text.startswith("CUDA error")
    return is_of_device and not any(lasting in text for lasting in _LASTING_DEVICE_ERRORS)
