"""llama.cpp with Q4_0 weights: its batch API through `llama-cpp-python`, with a continuous loop as its server's.

Every call of `llama_decode` feeds each running row its newest token, and in the same batch the whole prompts of the
requests that free rows are given to.
"""

import ctypes
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from bench.peer.gguf_export import export_gguf
from bench.peer.protocol import Arrivals, Request, Setup, answer

llama: Any = import_module("llama_cpp")  # by name: type checkers run where it is not installed

_CONTEXT_PER_ROW = 256
_LEAST_CONTEXT = 2048
_BATCH_TOKENS = 2048


@dataclass
class Row:
    """A running request."""

    number: int
    remaining: int
    """Tokens that it still wants."""
    length: int
    """Tokens of it in the cache."""
    feed: list[int]
    """Tokens to be fed next."""
    logits: int = -1
    """Place of its logits among the tokens of the last batch."""


class LlamaCpp:
    """A context, and a batch that is filled anew for each step."""

    def __init__(self, context: Any, rows: int, vocab_size: int) -> None:  # noqa: ANN401 - a pointer
        self._context = context
        self._memory = llama.llama_get_memory(context)
        self._batch = llama.llama_batch_init(_BATCH_TOKENS, 0, 1)
        self._vocab_size = vocab_size
        self._free = list(range(rows))
        self._rows: dict[int, Row] = {}

    def serve(self, requests: Sequence[Request], arrivals: Arrivals) -> None:
        """Serves all requests with continuous batching. Raises RuntimeError if llama.cpp cannot.

        A prompt has to fit into a batch, beside one token for each row.
        """
        waiting = deque(enumerate(requests))
        while waiting or self._rows:
            self._join(waiting)
            self._decode()
            self._sample(arrivals)

    def _join(self, waiting: deque[tuple[int, Request]]) -> None:
        room = _BATCH_TOKENS - len(self._rows)
        while waiting and self._free and len(waiting[0][1].prompt) <= room:
            number, request = waiting.popleft()
            room -= len(request.prompt)
            self._rows[self._free.pop()] = Row(number, request.output_count, 0, request.prompt)

    def _decode(self) -> None:
        batch, place = self._batch, 0
        for sequence, row in self._rows.items():
            for token in row.feed:
                batch.token[place] = token
                batch.pos[place] = row.length
                batch.n_seq_id[place] = 1
                batch.seq_id[place][0] = sequence
                batch.logits[place] = 0
                row.length += 1
                place += 1
            row.logits = place - 1
            batch.logits[row.logits] = 1
        batch.n_tokens = place
        if code := llama.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode returned {code}")

    def _sample(self, arrivals: Arrivals) -> None:
        """Takes the likeliest token of each row; forgets rows that have ended."""
        for sequence, row in list(self._rows.items()):
            logits = llama.llama_get_logits_ith(self._context, row.logits)
            row.feed = [int(np.ctypeslib.as_array(logits, (self._vocab_size,)).argmax())]
            row.remaining -= 1
            arrivals.add(row.number)
            if not row.remaining:
                llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)
                self._free.append(sequence)
                del self._rows[sequence]


def quantize(source: Path, target: Path, threads: int) -> None:
    """Runs llama.cpp's own quantizer: Q4_0, and its usual choice for the head. Raises RuntimeError if it fails."""
    parameters = llama.llama_model_quantize_default_params()
    parameters.ftype = llama.LLAMA_FTYPE_MOSTLY_Q4_0
    parameters.nthread = threads
    if code := llama.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters)):
        raise RuntimeError(f"llama_model_quantize returned {code}")


def prepare(setup: Setup) -> LlamaCpp:
    """Exports, quantizes and loads the model."""
    full, quantized = Path(setup.scratch) / "bf16.gguf", Path(setup.scratch) / "q4_0.gguf"
    export_gguf(Path(setup.model), full)
    quantize(full, quantized, setup.threads)
    model = llama.llama_model_load_from_file(str(quantized).encode(), llama.llama_model_default_params())
    parameters = llama.llama_context_default_params()
    parameters.n_ctx = max(_LEAST_CONTEXT, _CONTEXT_PER_ROW * setup.rows)
    parameters.n_batch = _BATCH_TOKENS
    parameters.n_seq_max = setup.rows
    parameters.n_threads = parameters.n_threads_batch = setup.threads
    parameters.kv_unified = True
    context = llama.llama_init_from_model(model, parameters)
    if not context:
        raise RuntimeError("llama.cpp could not load the model")
    return LlamaCpp(context, setup.rows, llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model)))


if __name__ == "__main__":
    answer(prepare)
