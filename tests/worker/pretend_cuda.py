"""Pretend GPUs: tensors that report `cuda` and compute on the CPU with real numbers, so that counts need no card.

Within `PretendCuda` whatever torch is asked to put on a GPU becomes such a tensor. What a GPU would refuse is refused:
operations on tensors of different devices. What would make the host wait is counted, by its cause: reading values
(`tolist`, `item`, `bool`, `nonzero` ...), and copies from host memory that is not pinned, for which CUDA drains the
queue. So is what would be launched: operations that compute or copy, and are no views.

All is seen at the level of torch's functions, where Python calls them; what they are composed of is seen below it. No
device guard of a GPU is needed for that, which torch's CPU build lacks.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

_aten = torch.ops.aten
_METADATA = {getattr(Tensor, name).__get__ for name in ("device", "is_cuda", "is_cpu")}
_READING = {
    Tensor.tolist,
    Tensor.item,
    Tensor.__bool__,
    Tensor.__int__,
    Tensor.__float__,
    Tensor.__index__,
    torch.equal,
}
"""Functions whose answer the host has to wait for."""
_READING_BELOW = {_aten.nonzero.default, _aten.masked_select.default, _aten.repeat_interleave.Tensor}
"""The same of what functions are composed of, where its size is not known before."""
_BETWEEN_DEVICES = {Tensor.copy_, Tensor.__setitem__, Tensor.__getitem__}
_ALLOCATING = {
    _aten.empty.memory_format,
    _aten.empty_like.default,
    _aten.empty_strided.default,
    _aten.detach.default,
    _aten.alias.default,
    _aten.lift_fresh.default,
    _aten._unsafe_view.default,
    _aten._reshape_alias.default,
}
"""Operations that launch nothing and that torch does not call views."""


class PretendTensor(Tensor):
    """A tensor on a pretend GPU. Its numbers are in `host`, on the CPU."""

    host: Tensor

    @staticmethod
    def __new__(cls: type["PretendTensor"], host: Tensor, device: torch.device) -> "PretendTensor":
        made: PretendTensor = Tensor._make_wrapper_subclass(
            cls, host.shape, strides=host.stride(), dtype=host.dtype, device=device
        )
        made.host = host
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise AssertionError(f"{func} is outside of PretendCuda")


class MixedDevicesError(Exception):
    """What a GPU would refuse."""


class _Below(TorchDispatchMode):
    """Sees what functions are composed of."""

    def __init__(self, counts: "PretendCuda") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _READING_BELOW and not (kwargs or {}).get("output_size"):
            self._counts.waits[str(func)] += 1
        if func in {_aten.index.Tensor, _aten.index_put_.default} and any(
            isinstance(each, Tensor) and each.dtype == torch.bool for each in args[1]
        ):
            self._counts.waits["index by a mask"] += 1
        if not func.is_view and func not in _ALLOCATING:
            self._counts.launches[str(func)] += 1
        return out


class PretendCuda(TorchFunctionMode):
    """Makes pretend GPUs of what torch is asked to put on GPUs, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        """How often the host would have waited, by what for."""
        self.launches: Counter[str] = Counter()
        """By operation."""
        self._pinned: set[int] = set()
        self._kept: list[Tensor] = []
        """Pinned tensors, so that no other gets their ids."""

    def clear(self) -> None:
        """Begins to count anew."""
        self.waits.clear()
        self.launches.clear()

    def put(self, model: nn.Module, device: torch.device) -> None:
        """Puts a model's weights and buffers on a pretend GPU."""
        for module in model.modules():
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    if tensor is not None:
                        held[name] = PretendTensor(tensor.detach(), device)  # type: ignore[assignment]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _METADATA:
            return func(*args, **kwargs)
        if func is Tensor.pin_memory:
            return self._pin(args[0])
        if func in {Tensor.to, Tensor.cpu, Tensor.cuda}:
            return self._move(func, args, kwargs)
        device = kwargs.get("device")
        if isinstance(device, int | str | torch.device) and torch.device(device).type == "cuda":
            return self._create(func, args, kwargs, torch.device(device))
        leaves = tree_leaves((args, kwargs))
        devices = {leaf.device for leaf in leaves if isinstance(leaf, PretendTensor)}
        if not devices:
            return func(*args, **kwargs)
        if func is Tensor.numpy:
            raise TypeError("a tensor on a GPU has no numbers on the host")
        self._check(func, leaves, devices)
        return self._run(func, args, kwargs, devices.pop())

    def _check(self, func: Any, leaves: list[Any], devices: set[torch.device]) -> None:
        on_host = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, PretendTensor)]
        sized = [each for each in on_host if each.dim()]
        if func in _READING:
            self.waits[func.__name__] += 1
        elif func in _BETWEEN_DEVICES:
            is_free = func is Tensor.copy_ and all(id(each) in self._pinned for each in sized)
            self.waits[f"{func.__name__} of the host's"] += bool(sized) and not is_free
        elif sized:
            raise MixedDevicesError(f"{func} of tensors on {devices} and on the host")
        if len(devices) > 1 and func is not Tensor.copy_:
            raise MixedDevicesError(f"{func} of tensors on {devices}")

    def _run(self, func: Any, args: Any, kwargs: Any, device: torch.device) -> Any:
        given = {id(leaf.host): leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, PretendTensor)}
        args, kwargs = tree_map_only(PretendTensor, lambda tensor: tensor.host, (args, kwargs))
        if func in {Tensor.__getitem__, Tensor.__setitem__} and _has_list(args[1]):
            self.waits["index by a list"] += 1
        with _Below(self):
            out = func(*args, **kwargs)

        def wrap(tensor: Tensor) -> Tensor:
            known = given.get(id(tensor))
            return PretendTensor(tensor, device) if known is None else known

        if func in _READING:
            return out
        return tree_map_only(Tensor, wrap, out)

    def _create(self, func: Any, args: Any, kwargs: dict[str, Any], device: torch.device) -> Any:
        device = torch.device("cuda", device.index or 0)
        there = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, PretendTensor)]
        if func in {torch.tensor, torch.as_tensor, Tensor.new_tensor} and not there:
            self.waits[f"{func.__name__} of the host's"] += 1
        args, kwargs = tree_map_only(PretendTensor, lambda tensor: tensor.host, (args, kwargs))
        with _Below(self):
            out = func(*args, **{**kwargs, "device": torch.device("cpu")})
        return tree_map_only(Tensor, lambda tensor: PretendTensor(tensor, device), out)

    def _pin(self, tensor: Tensor) -> Tensor:
        pinned = tensor.clone()
        self._pinned.add(id(pinned))
        self._kept.append(pinned)
        return pinned

    def _move(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
        source, *rest = args
        target = _target(func, source, rest, kwargs)
        plain = source.host if isinstance(source, PretendTensor) else source
        rest = [each for each in rest if not _is_device(each) and not isinstance(each, Tensor)]
        kwargs = {name: value for name, value in kwargs.items() if name != "device"}
        is_free = kwargs.pop("non_blocking", False) and (target.type == "cpu" or id(source) in self._pinned)
        if target.type == source.device.type:
            if target.type == "cpu":
                return func(plain, *rest, **kwargs)  # type: ignore[no-any-return]
            with _Below(self):
                moved = plain.to(*rest, **kwargs) if rest or kwargs else plain
            is_same = moved is plain and (target.index or 0) == source.device.index
            return source if is_same else PretendTensor(moved, torch.device("cuda", target.index or 0))
        self.waits[f"copy to {target.type}"] += not is_free
        self.launches["copy between devices"] += 1
        moved = plain.to(*rest, **kwargs).clone()
        return moved if target.type == "cpu" else PretendTensor(moved, torch.device("cuda", target.index or 0))


def _has_list(index: Any) -> bool:
    return any(isinstance(each, list) for each in (index if isinstance(index, tuple) else (index,)))


def _is_device(value: Any) -> bool:
    return isinstance(value, torch.device) or (isinstance(value, str) and value.split(":")[0] in {"cpu", "cuda"})


def _target(func: Callable[..., Any], source: Tensor, rest: list[Any], kwargs: dict[str, Any]) -> torch.device:
    """Returns where a tensor is to go."""
    if func is not Tensor.to:
        return torch.device("cpu" if func is Tensor.cpu else "cuda")
    given: list[Any] = [*rest, kwargs.get("device"), kwargs.get("other")]
    for each in given:
        if isinstance(each, Tensor):
            return each.device
        if _is_device(each):
            return torch.device(each)
    return source.device


@contextmanager
def pretend_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendCuda]:
    """Makes pretend GPUs of what torch is asked to put on GPUs, and counts waits for whole devices, too."""
    counts = PretendCuda()

    def synchronize(device: object = None) -> None:
        counts.waits["synchronize"] += 1

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    with counts:
        yield counts
