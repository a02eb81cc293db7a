"""Where a model goes: `--device-map` and `--max-memory`, as transformers and accelerate take them."""

import json
import re
from collections.abc import Mapping

Device = int | str
"""Number of a GPU, or "cpu", "disk", "cuda:0" and the like."""

STRATEGIES = frozenset({"auto", "balanced", "balanced_low_0", "sequential"})
"""What accelerate can work out by itself."""

_DEVICE = re.compile(r"(?P<kind>cpu|cuda|xpu|npu|hpu|mps)(:(?P<number>\d+))?")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(MB|GB|MiB|GiB)")
_UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}


def parse_device_map(text: str) -> str | dict[str, Device]:
    """Returns a strategy or a device as it is, and a JSON object of modules and devices as a dict.

    Raises ValueError if it is neither.
    """
    if text in STRATEGIES or _DEVICE.fullmatch(text):
        return text
    if not text.startswith("{"):
        raise ValueError(f"{text!r} is no device, and none of {', '.join(sorted(STRATEGIES))}")
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from error
    if not entries:
        raise ValueError("it names no module")
    return {module: _device(device) for module, device in entries.items()}


def parse_max_memory(text: str) -> dict[Device, int] | None:
    """Returns the bytes for each device of a text such as "0=20GiB,cpu=60GiB"; None for an empty one.

    Raises ValueError if it is not of this form.
    """
    memory: dict[Device, int] = {}
    for entry in filter(None, text.split(",")):
        name, equals, size = entry.strip().partition("=")
        if not equals or _SIZE.fullmatch(size.strip()) is None:
            raise ValueError(f"{entry!r} is not of the form DEVICE=SIZE, with a size such as 20GiB or 500MiB")
        memory[_device(int(name) if name.isdecimal() else name)] = parse_size(size)
    return memory or None


def parse_size(text: str) -> int:
    """Returns the bytes of a size such as "20GiB". Raises ValueError for anything else."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no size such as 20GiB or 500MiB")
    return int(float(found[1]) * _UNITS[found[2]])


def _device(value: object) -> Device:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (value == "disk" or _DEVICE.fullmatch(value)):
        return value
    raise ValueError(f"{value!r} is no device: give the number of a GPU, cpu, disk, or a name such as cuda:0")


def is_cpu_alone(device_map: str | Mapping[str, Device]) -> bool:
    """Returns whether a map leaves no choice but the CPU."""
    return device_map == "cpu" if isinstance(device_map, str) else set(device_map.values()) == {"cpu"}


def check_accelerators(device_map: str | Mapping[str, Device], memory: Mapping[Device, int] | None, count: int) -> None:
    """Raises ValueError if a GPU is named that this machine, with so many of them, does not have."""
    named = {device_map} - STRATEGIES if isinstance(device_map, str) else {*device_map.values()}
    for device in sorted(named | {*(memory or ())}, key=str):
        if _accelerator(device) >= count:
            raise ValueError(f"--device-map or --max-memory names device {device}, and {count} GPUs are visible")


def _accelerator(device: Device) -> int:
    """Returns the number of a GPU; -1 for the CPU and the disk."""
    if isinstance(device, int):
        return device
    found = _DEVICE.fullmatch(device)
    return -1 if found is None or found["kind"] == "cpu" else int(found["number"] or 0)
