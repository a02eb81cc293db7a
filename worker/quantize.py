"""Writes a quantized checkpoint: weights, tokenizer and generation config, as the worker loads them.

Nothing is computed with the model before it is written: on a CPU the first forward pass re-packs 4-bit weights, and
what is saved afterwards has lost precision. Then it is tried: a checkpoint that cannot be served is not left there.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from transformers import GenerationConfig
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME

from .domain.config import Config
from .domain.refusal import UnsupportedModelError, doing
from .loading.checkpoint.hub import Files
from .loading.checkpoint.preflight import check_checkpoint, in_plain_words
from .loading.load_report import log_quantization
from .loading.probe import layer_layouts
from .loading.quantization.quantization import QuantizationReport, is_quantized
from .loading.weights import load_weights, read_config, read_tokenizer
from .runners.native.assembly import native_code


def quantize(config: Config, out: Path, *, overwrite: bool = False) -> str:
    """Writes the model of a config to a folder, quantized, and returns a line that tells what came of it.

    The folder is complete as soon as it has a config.json. Weights that it held before are deleted.

    Raises as `load`, and:
        OSError: a file cannot be read or written.
        ValueError: the model cannot be loaded or served, is quantized already, or has nothing that can be quantized; or
            the folder is not empty and overwrite is not set, or is the model's own.
    """
    files = Files(config)
    _check_out(config, out, overwrite=overwrite)
    began = time.monotonic()
    settings = check_checkpoint(files)
    with doing("reading config.json"), in_plain_words(settings):
        model_config = read_config(config)
    if config.quantization == "none" or is_quantized(model_config):
        raise ValueError("nothing to do: it is quantized already, or --quantization none was given")
    with doing("reading the tokenizer"):
        tokenizer = read_tokenizer(config)
    with doing("loading the weights"), in_plain_words(settings):
        # What a worker computes in on this machine decides which numbers are quantized.
        model, report, dtype = load_weights(config, model_config, native_code(config))
    log_quantization(report)
    if not report.share:
        raise ValueError("nothing of it can be quantized")
    with doing(f"writing {out}"):
        _write(model, tokenizer, out)
    plain_bytes = report.total_parameters * (model_config.dtype or dtype).itemsize
    return _summary(config, out, report, plain_bytes=plain_bytes, seconds=time.monotonic() - began)


def _check_out(config: Config, out: Path, *, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is not a folder")
    if out.resolve() == Path(config.model).resolve():
        raise ValueError(f"{out} is the model itself")
    if not overwrite and out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty; --overwrite writes into it all the same")


def _write(model: Any, tokenizer: Any, out: Path) -> None:  # noqa: ANN401 - transformers' objects
    """Writes into a folder beside, then moves: what fails midway leaves no half of a checkpoint."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".partial-") as partial:
        _save(model, tokenizer, Path(partial))
        _try(model)
        _delete_weights(out)
        for path in sorted(Path(partial).iterdir(), key=lambda path: path.name == CONFIG_NAME):
            path.replace(out / path.name)


def _try(model: Any) -> None:  # noqa: ANN401 - transformers models share no useful static type
    try:
        layer_layouts(model)
    except UnsupportedModelError as error:
        raise ValueError(f"it could not be served: {error}") from error


def _save(model: Any, tokenizer: Any, folder: Path) -> None:  # noqa: ANN401 - transformers' objects
    # Apart from the model: transformers refuses to save the combinations of settings that many checkpoints come with.
    generation_config, model.generation_config = model.generation_config, GenerationConfig()
    model.save_pretrained(folder)
    generation_config.to_json_file(folder / GENERATION_CONFIG_NAME)
    tokenizer.save_pretrained(folder)


def _delete_weights(folder: Path) -> None:
    """Old weights, and what tells that they are there: a loader may prefer them to the new."""
    for pattern in (CONFIG_NAME, "*.safetensors", "*.safetensors.index.json"):
        for path in folder.glob(pattern):
            path.unlink()


def _summary(config: Config, out: Path, report: QuantizationReport, *, plain_bytes: int, seconds: float) -> str:
    written = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    return (
        f"textserve-worker quantized {config.model} to {out}: {report.quantization}, {100 * report.share:.0f} % of "
        f"{report.total_parameters:,} parameters, {plain_bytes / 2**20:.1f} MiB to {written / 2**20:.1f} MiB, "
        f"{seconds:.1f} s"
    )
