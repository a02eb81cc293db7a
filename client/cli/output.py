"""What the `textserve` command prints, as strings."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..errors import TextserveError, UnavailableError
from ..types.generation_config import GenerationConfig
from ..types.values import Estimate, Generation, Model, ModelCapability, Tokenization


def generation_text(generation: Generation) -> str:
    """The text; each of several below a line with its number in brackets."""
    if len(generation.candidates) == 1:
        return generation.text
    return "\n".join(f"[{index}]\n{each.text}" for index, each in enumerate(generation.candidates))


def generation_json(generation: Generation) -> str:
    """The answer as one line of JSON; times in seconds. Text, reason and stop are those of the first candidate."""
    return json.dumps(
        {
            "text": generation.text,
            "finish_reason": generation.finish_reason,
            "stop_sequence": generation.stop_sequence,
            "stop_token_id": generation.candidates[0].stop_token_id,
            "usage": asdict(generation.usage),
            "seed": generation.seed,
            "timing": asdict(generation.timing),
            "model": generation.model,
            "fingerprint": generation.fingerprint,
            "config": _config(generation.config),
            "worker": generation.worker,
            "attempt_count": generation.attempt_count,
            "resumed": generation.resumed,
            "stop_sequences": list(generation.stop_sequences),
            "candidates": [asdict(each) for each in generation.candidates],
            "prompt_token_ids": generation.prompt_token_ids,
            "prompt_logprobs": [asdict(each) for each in generation.prompt_logprobs],
            "server_request_id": generation.server_request_id,
        }
    )


def estimate_text(estimate: Estimate) -> str:
    """One line for each figure; times in seconds, as far as they are known."""
    named = {
        "prompt tokens": estimate.prompt_token_count,
        "most new tokens": estimate.max_new_tokens,
        "queue": _seconds(estimate.queue),
        "time to first token": _seconds(estimate.time_to_first_token),
        "total": _seconds(estimate.total),
    }
    return "\n".join(f"{name}: {value}" for name, value in named.items())


def estimate_json(estimate: Estimate) -> str:
    """The same as one line of JSON."""
    return json.dumps(asdict(estimate))


def _seconds(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds:.3f} s"


def tokenization_text(tokenization: Tokenization) -> str:
    """One line for each token: where it begins and ends, its id, and its bytes as Python writes them, less the b."""
    return "\n".join(
        f"{piece.begin}-{piece.end}\t{token_id}\t{repr(piece.piece)[1:]}"
        for token_id, piece in zip(tokenization.token_ids, tokenization.pieces, strict=True)
    )


def tokenization_json(tokenization: Tokenization) -> str:
    """The tokens as one line of JSON; the bytes of a piece that are no whole character are U+FFFD there."""
    return json.dumps(
        {
            "token_count": len(tokenization),
            "token_ids": tokenization.token_ids,
            "pieces": [asdict(each) | {"piece": each.piece.decode(errors="replace")} for each in tokenization.pieces],
            "rendered_prompt": tokenization.rendered_prompt,
        }
    )


def models_json(models: Sequence[Model]) -> str:
    """The models as one line of JSON."""
    return json.dumps(
        {
            "models": [
                asdict(each)
                | {
                    "default_generation_config": _config(each.default_generation_config),
                    "capabilities": sorted(each.capabilities),
                }
                for each in models
            ]
        }
    )


def models_table(models: Sequence[Model]) -> str:
    """The models as a table with one line for each."""
    rows = [("NAME", "ARCHITECTURE", "CONTEXT", "QUANTIZATION", "CHAT", "READY WORKERS")]
    rows += [
        (
            each.name,
            each.architecture,
            str(each.context_length),
            each.quantization,
            "yes" if ModelCapability.CHAT in each.capabilities else "no",
            str(each.ready_worker_count),
        )
        for each in models
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def error_line(error: TextserveError, address: str) -> str:
    """The error in one line."""
    no_answer = isinstance(error, UnavailableError) and not error.reason
    text = f"no answer from {address}: {error}" if no_answer else str(error)
    return " ".join(text.split())


def _config(config: GenerationConfig) -> dict[str, Any]:
    """What the server has named."""
    return {name: value for name, value in asdict(config).items() if value not in (None, ())}
