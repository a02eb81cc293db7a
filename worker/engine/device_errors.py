"""Which errors are of a device, of its memory or its loss, and not of what was asked of it."""

import torch

# What torch's allocator for CPUs says; it raises a plain RuntimeError.
_CPU_ALLOCATOR = "DefaultCPUAllocator: "
_LASTING_DEVICE_ERRORS = ("device-side assert", "no kernel image is available")
"""What a device says of a model that it will never run, in errors that are otherwise those of a lost device."""


def is_out_of_memory(error: Exception) -> bool:
    """Returns whether an error says that memory could not be allocated."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or _CPU_ALLOCATOR in str(error)


def may_pass(error: BaseException) -> bool:
    """Returns whether a new process may do better: the error, or what caused it, is of memory or of a lost device."""
    seen: BaseException | None = error
    while isinstance(seen, Exception):
        if is_out_of_memory(seen) or _is_lost_device(seen):
            return True
        seen = seen.__cause__
    return False


def _is_lost_device(error: Exception) -> bool:
    text = str(error)
    is_of_device = isinstance(error, torch.AcceleratorError) or text.startswith("CUDA error")
    return is_of_device and not any(lasting in text for lasting in _LASTING_DEVICE_ERRORS)
