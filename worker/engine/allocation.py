"""Tells a failed allocation from other errors."""

import torch

# What torch's allocator for CPUs says; it raises a plain RuntimeError.
_CPU_ALLOCATOR = "DefaultCPUAllocator: "


def is_out_of_memory(error: Exception) -> bool:
    """Returns whether an error says that memory could not be allocated."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or _CPU_ALLOCATOR in str(error)
