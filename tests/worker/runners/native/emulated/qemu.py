"""The C code for 64-bit ARM, run by qemu: every call is a process that gets all memory in a file, and gives it back."""

import ctypes
import subprocess
from pathlib import Path
from typing import Any

from worker.runners.native import library
from worker.runners.native.library import Library
from worker.runners.native.structures import Experts, HeadNorms, Layer, Linear, Model, Norm, Slab, Tokens

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
SOURCES = Path(__file__).parent
BASE = 0x2000_0000_00
"""Where the file lies in the process's memory: where nothing else is."""
_LINE = 64
_WORD, _BFLOAT16, _FLOAT = 8, 2, 4


class Image:
    """The memory of a call, as it will lie at BASE."""

    def __init__(self) -> None:
        self._memory = bytearray(_LINE)
        self._written: list[tuple[int, int, int]] = []

    def put(self, content: bytes) -> int:
        """Returns the address that a copy will have."""
        at = len(self._memory)
        self._memory += content + bytes(-len(content) % _LINE)
        return BASE + at

    def copy(self, address: int | None, size: int, *, is_written: bool = False) -> int | None:
        """Returns the address of a copy of our memory; if it is written, it comes back."""
        if not address:
            return None
        place = self.put(ctypes.string_at(address, size))
        if is_written:
            self._written.append((address, size, place - BASE))
        return place

    def run(self, program: Path, *arguments: int) -> None:
        """Lets the program work on it, and takes back what it wrote. Raises MemoryError as the C code does."""
        file = program.with_suffix(".image")
        file.write_bytes(self._memory + bytes(-len(self._memory) % 4096))
        done = subprocess.run([EMULATOR, program, file, hex(BASE), *map(hex, arguments)], check=False)
        assert done.returncode in {0, 1}, done.returncode
        if done.returncode:
            raise MemoryError
        memory = file.read_bytes()
        for address, size, offset in self._written:
            ctypes.memmove(address, memory[offset : offset + size], size)


class QemuLibrary(Library):
    """The compiled functions, on one emulated thread."""

    def __init__(self, folder: Path, flags: tuple[str, ...]) -> None:
        """Compiles them."""
        self.path, self.threads = folder / "program", 1
        options = ["-ffp-contract=off", "-static", "-fopenmp", f"-I{Path(library.__file__).parent}"]
        files = ["-o", str(self.path), str(SOURCES / "program.c"), "-lm"]
        subprocess.run([COMPILER, *flags, *options, *files], check=True)

    def forward(self, model: Model, tokens: Tokens) -> None:
        """Runs tokens through a model."""
        if not tokens.count:
            return
        image = Image()
        self._image_of_forward(image, model, tokens)

    def linear(self, layer: Linear, x: int, rows: int, y: int, *, wide: bool = False) -> None:
        """Multiplies."""
        image, size = Image(), _FLOAT if wide else _BFLOAT16
        copied = image.put(bytes(_linear(image, layer)))
        given = image.copy(x, rows * layer.inputs * size) or 0
        product = image.copy(y, rows * layer.outputs * size, is_written=True) or 0
        image.run(self.path, copied, given, product, rows, wide)

    def _image_of_forward(self, image: Image, model: Model, tokens: Tokens) -> None:
        width = model.width
        layers = [_layer(image, model.layers[index], model) for index in range(model.layer_count)]
        copied = _clone(model)
        copied.layers = _pointer(Layer, image.put(b"".join(map(bytes, layers))))
        copied.final_norm = _norm(image, model.final_norm, width)
        copied.head = _linear(image, model.head)
        told, count = _clone(tokens), tokens.count
        places = (ctypes.c_int64 * (4 * count)).from_address(tokens.places or 0)
        slabs = range(max(places[::4]) + 1)
        rows = [max(places[4 * i + 1] for i in range(count) if places[4 * i] == slab) + 1 for slab in slabs]
        told.places = image.copy(tokens.places, count * 4 * _WORD)
        told.hidden = image.copy(tokens.hidden, count * width * _BFLOAT16)
        turns = 1 + max(model.layers[each].rotation for each in range(model.layer_count))
        size = turns * count * model.rotary_dim * _BFLOAT16
        told.cos, told.sin = (image.copy(each, size) for each in (tokens.cos, tokens.sin))
        given = [_slab(image, tokens.slabs[slab], rows[slab], model.layer_count) for slab in slabs]
        told.slabs = _pointer(Slab, image.put(b"".join(map(bytes, given))))
        told.asked = image.copy(tokens.asked, tokens.asked_count * _WORD)
        told.logits = image.copy(tokens.logits, tokens.asked_count * model.head.outputs * _FLOAT, is_written=True)
        image.run(self.path, image.put(bytes(copied)), image.put(bytes(told)))


def _linear(image: Image, layer: Linear) -> Linear:
    copied: Linear = _clone(layer)
    outputs, inputs = layer.outputs, layer.inputs
    copied.codes = image.copy(layer.codes, outputs * inputs // 2)
    copied.scales = image.copy(layer.scales, inputs // (layer.block or 1) * outputs * _BFLOAT16)
    copied.table, copied.steps = (image.copy(each, 16 * _BFLOAT16) for each in (layer.table, layer.steps))
    copied.dense = image.copy(layer.dense, outputs * inputs * _BFLOAT16)
    copied.bias = image.copy(layer.bias, outputs * _FLOAT)
    return copied


def _norm(image: Image, norm: Norm, size: int) -> Norm:
    return Norm(image.copy(norm.weight, size * _BFLOAT16), image.copy(norm.bias, size * _BFLOAT16))


def _layer(image: Image, layer: Layer, model: Model) -> Layer:
    copied: Layer = _clone(layer)
    dim, alike = int(model.head_dim), model.head_norms == HeadNorms.ALIKE
    sizes: dict[str, int] = dict.fromkeys(("input_norm", "network_norm", "attended_norm", "fed_norm"), int(model.width))
    sizes["query_norm"] = dim if alike else int(model.heads) * dim
    sizes["key_norm"] = dim if alike else int(model.key_heads) * dim
    for name, size in sizes.items():
        setattr(copied, name, _norm(image, getattr(layer, name), size))
    for name in ("query", "key", "value", "output", "gate", "up", "down"):
        setattr(copied, name, _linear(image, getattr(layer, name)))
    copied.experts = _experts(image, layer.experts)
    return copied


def _experts(image: Image, experts: Experts) -> Experts:
    copied: Experts = _clone(experts)
    copied.router, copied.shared_gate = _linear(image, experts.router), _linear(image, experts.shared_gate)
    count = int(experts.router.outputs)
    gates = image.copy(experts.gate.dense, count * experts.gate_stride * _BFLOAT16)
    if gates:
        copied.gate.dense, copied.up.dense = gates, gates + experts.up.dense - experts.gate.dense
    copied.down.dense = image.copy(experts.down.dense, count * experts.down_stride * _BFLOAT16)
    return copied


def _slab(image: Image, slab: Slab, rows: int, layers: int) -> Slab:
    copied: Slab = _clone(slab)
    for name in ("keys", "values"):
        size = rows * slab.row_stride * _BFLOAT16
        copies = [image.copy(getattr(slab, name)[layer], size, is_written=True) for layer in range(layers)]
        setattr(copied, name, _pointer(ctypes.c_void_p, image.put(bytes((ctypes.c_void_p * layers)(*copies)))))
    return copied


def _clone(structure: Any) -> Any:
    return type(structure).from_buffer_copy(structure)


def _pointer(kind: Any, address: int) -> Any:
    return ctypes.cast(address, ctypes.POINTER(kind))
