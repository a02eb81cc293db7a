from types import SimpleNamespace
from typing import Any, cast

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from bench.peer.protocol import Request
from bench.servers import StaticServer
from worker.loading.loading import LoadedModel


class Model:
    """Streams so many tokens, and notes what it was given."""

    def __init__(self) -> None:
        self.ids: list[list[list[int]]] = []
        self.masks: list[list[list[int]]] = []

    def generate(
        self, ids: Tensor, *, attention_mask: Tensor, max_new_tokens: int, streamer: BaseStreamer, **_settings: Any
    ) -> None:
        self.ids.append(ids.tolist())
        self.masks.append(attention_mask.tolist())
        for _ in range(1 + max_new_tokens):
            streamer.put(ids)
        streamer.end()


def static_server(rows: int) -> tuple[StaticServer, Model]:
    model = Model()
    return StaticServer(cast("LoadedModel", SimpleNamespace(model=model)), rows), model


def emitted(server: StaticServer) -> list[list[int]]:
    found: list[list[int]] = []
    server.work(lambda numbers: found.append(list(numbers)))
    return found


def test_a_batch_runs_to_its_longest_output_but_each_request_ends_with_its_own() -> None:
    server, _ = static_server(rows=2)
    server.submit(0, Request([5], 1))
    server.submit(1, Request([6], 3))
    assert emitted(server) == [[0, 1], [1], [1]]
    assert not server.has_work


def test_a_batch_takes_what_has_arrived_up_to_its_rows_in_order() -> None:
    server, model = static_server(rows=2)
    for number in range(3):
        server.submit(number, Request([number + 1], 1))
    assert emitted(server) == [[0, 1]]
    assert server.has_work
    assert emitted(server) == [[2]]
    assert model.ids == [[[1], [2]], [[3]]]


def test_prompts_are_padded_on_the_left_under_a_mask() -> None:
    server, model = static_server(rows=2)
    server.submit(0, Request([7, 8, 9], 1))
    server.submit(1, Request([5], 1))
    emitted(server)
    assert model.ids == [[[7, 8, 9], [0, 0, 5]]]
    assert model.masks == [[[1, 1, 1], [0, 0, 1]]]
