"""The log lines about a loaded model: its size, what loading it took, and what about it may surprise."""

import logging
import time
from pathlib import Path
from typing import Any

import psutil

from .dispatch import offload_places, offloaded_bytes
from .facts import ModelFacts
from .quantization.quantization import QuantizationReport

logger = logging.getLogger(__name__)

_SMALL_SHARE = 0.5
_STATUS = Path("/proc/self/status")
_MIB = 2**20


class LoadCost:
    """Counts from its creation on; each part begins where the one before ended."""

    def __init__(self) -> None:
        """Notes when the process began and what it holds: imports, mostly."""
        process = psutil.Process()
        self.seconds_before = time.time() - process.create_time()
        self.bytes_before = process.memory_info().rss
        self.parts: list[tuple[str, float]] = []
        self._began = self._last = time.monotonic()

    @property
    def seconds(self) -> float:
        """Returns the time since the load began."""
        return time.monotonic() - self._began

    def end(self, part: str) -> None:
        """Says that a part has ended."""
        now = time.monotonic()
        self.parts.append((part, now - self._last))
        self._last = now

    def __str__(self) -> str:
        """Returns the parts' seconds and the memory, for a log."""
        parts = ", ".join(f"{part} {seconds:.2f} s" for part, seconds in self.parts)
        peak = peak_bytes()
        most = f", at most {peak / _MIB:.0f} MiB until now" if peak else ""
        return (
            f"{parts}, begun {self.seconds_before:.2f} s after the process; "
            f"memory of the process {self.bytes_before / _MIB:.0f} MiB before{most}"
        )


def peak_bytes() -> int:
    """Returns the most memory that this process has ever held, mapped files included; 0 where Linux does not tell."""
    lines = _STATUS.read_text().splitlines() if _STATUS.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def log_report(
    facts: ModelFacts,
    report: QuantizationReport,
    model: Any,  # noqa: ANN401 - transformers models share no useful static type
    cost: LoadCost,
) -> None:
    """Logs a line about the model, a line about what loading it took, and one for each thing to be known about it."""
    offloaded = offloaded_bytes(model)
    logger.info(
        "loaded %s (%s) on %s in %.1f s: %.1f MiB, %s parameters, %.0f %% of them %s%s",
        facts.name,
        facts.architecture,
        "+".join(facts.devices),
        cost.seconds,
        (model.get_memory_footprint() - offloaded) / 2**20,
        f"{report.total_parameters:,}",
        100 * report.share,
        report.quantization if report.share else "quantized",
        " with double quantization" if report.is_double_quantized else "",
    )
    logger.info("loading took: %s", cost)
    if offloaded:
        logger.warning(
            "%.1f MiB more are offloaded to %s and fetched anew in every step, which is slow",
            offloaded / 2**20,
            " and ".join(offload_places(model)),
        )
    log_quantization(report)


def log_tokens_beyond(tokenizer: Any, vocab_size: int) -> None:  # noqa: ANN401 - transformers' tokenizers are untyped
    """Warns of tokens that the model has no embedding for: prompts with them are refused."""
    beyond = sorted((id_, token) for token, id_ in tokenizer.get_vocab().items() if id_ >= vocab_size)
    if beyond:
        logger.warning(
            "the tokenizer has %d tokens beyond the model's %d embeddings, such as %s (%d): they were added alone, "
            "and prompts that have them are refused",
            len(beyond),
            vocab_size,
            beyond[0][1],
            beyond[0][0],
        )


def log_quantization(report: QuantizationReport) -> None:
    """Logs a line for each thing about the quantized weights that their operator should know."""
    if report.left_out:
        logger.warning(
            "%d layers are not quantized, because this CPU's 4-bit kernel refuses their shapes: %s%s",
            len(report.left_out),
            ", ".join(report.left_out[:3]),
            ", ..." if len(report.left_out) > 3 else "",
        )
    if report.was_to_be_quantized and report.share < _SMALL_SHARE:
        logger.warning(
            "only %.0f %% of the parameters are quantized, because %s", 100 * report.share, _why_so_few(report)
        )
    if report.int8_threshold:
        logger.warning(
            "LLM.int8 picks outlier columns (from %g on) over the whole batch: what a request gets depends slightly on "
            "what runs beside it; --int8-threshold 0, given when the model is quantized, prevents that",
            report.int8_threshold,
        )


def _why_so_few(report: QuantizationReport) -> str:
    if 2 * report.expert_parameters > report.total_parameters - report.quantized_parameters:
        share = 100 * report.expert_parameters / report.total_parameters
        return f"{share:.0f} % are experts fused into 3-D tensors, which bitsandbytes leaves as they are"
    if report.own_linear_kinds:
        return f"its linear layers are {' and '.join(report.own_linear_kinds)}, which transformers leaves as they are"
    return "the others are embeddings, the head, norms and layers that are left out"
