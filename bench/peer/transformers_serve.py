"""`transformers serve`: NF4 over HTTP, requests streamed to as many callers at once as there are rows.

    python -m bench.peer.transformers_serve [--continuous-batching]

It runs a checkpoint that is saved in NF4: its own flag for 4 bit computes in float32, which is slower.
"""

import atexit
import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from transformers import AutoTokenizer

from bench.peer.continuous_batching import BLOCKS_PER_ROW
from bench.peer.nf4 import load_nf4
from bench.peer.protocol import Arrivals, Request, Setup, answer

_WAIT_S = 300


class TransformersServe:
    """A server that listens, and callers."""

    def __init__(self, port: int, model: str, rows: int) -> None:
        self._port = port
        self._model = model
        self._callers = ThreadPoolExecutor(rows)

    def serve(self, requests: Sequence[Request], arrivals: Arrivals) -> None:
        """Serves all requests, one for each caller at a time. Raises RuntimeError if one is refused."""
        calls = [self._callers.submit(self._stream, each, number, arrivals) for number, each in enumerate(requests)]
        for call in calls:
            call.result()

    def _stream(self, request: Request, number: int, arrivals: Arrivals) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_WAIT_S)
        body = {
            "model": self._model,
            "prompt": " ".join(f"w{token}" for token in request.prompt),
            "max_tokens": request.output_count,
            "temperature": 0.0,
            "stream": True,
        }
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise RuntimeError(f"status {response.status}: {response.read().decode()}")
        for line in response:
            if has_text(line.decode()):
                arrivals.add(number)
        connection.close()


def has_text(line: str) -> bool:
    """Tells whether a line of a stream brings a token. Raises RuntimeError if it brings an error."""
    if not line.startswith("data: {"):
        return False
    event = json.loads(line.removeprefix("data: "))
    if "error" in event:
        raise RuntimeError(event["error"])
    return any(choice.get("text") for choice in event["choices"])


def prepare(setup: Setup) -> TransformersServe:
    """Saves the model in NF4, starts the server on it, and waits until it listens."""
    model = Path(setup.scratch) / "nf4"
    load_nf4(setup.model).save_pretrained(model)
    AutoTokenizer.from_pretrained(setup.model).save_pretrained(model)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen([Path(sys.executable).with_name("transformers"), "serve", *_flags(setup, model, port)])
    atexit.register(server.kill)
    _wait(server, port)
    return TransformersServe(port, str(model), setup.rows)


def _flags(setup: Setup, model: Path, port: int) -> list[str]:
    flags = [str(model), "--device", "cpu", "--attn-implementation", "sdpa", "--host", "127.0.0.1", "--port", str(port)]
    if "--continuous-batching" in sys.argv:
        flags += ["--continuous-batching", "--cb-num-blocks", str(BLOCKS_PER_ROW * setup.rows)]
    return flags


def _wait(server: subprocess.Popen[bytes], port: int) -> None:
    """Returns when the server listens, which it does after loading. Raises RuntimeError if it ends before."""
    while server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"transformers serve ended with code {server.returncode}")


if __name__ == "__main__":
    answer(prepare)
