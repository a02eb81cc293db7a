"""Memory that runs out before a worker is ready costs it keys and values, and not its life."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from worker import server
from worker.domain.config import Config

LOADED: Any = SimpleNamespace(facts=SimpleNamespace(vocab_size=1))


class Memory:
    """Holds an engine with a share of what was planned, at most."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: float, *, fails_in: str = "assemble") -> None:
        self.tried: list[float] = []
        self._most, self._fails_in = most, fails_in
        monkeypatch.setattr(server, "assemble", self.assemble)
        monkeypatch.setattr(server, "warm_up", lambda engine, vocab_size: self._allocate("warm_up"))

    def assemble(self, loaded: object, config: Config, *, share: float) -> Any:
        self.tried.append(share)
        self._allocate("assemble")
        return SimpleNamespace(runner=SimpleNamespace(trial=nullcontext), share=share)

    def _allocate(self, where: str) -> None:
        if where == self._fails_in and self.tried[-1] > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("fails_in", ["assemble", "warm_up"])
def test_less_is_tried_until_it_fits(fails_in: str, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(monkeypatch, 0.7, fails_in=fails_in)
    made: Any = server._warm_engine(LOADED, Config())
    assert made.share == 0.6
    assert memory.tried == [1.0, 0.8, 0.6]


def test_what_does_not_fit_at_all_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(monkeypatch, 0.0)
    with pytest.raises(torch.OutOfMemoryError):
        server._warm_engine(LOADED, Config())
    assert memory.tried == [1.0, 0.8, 0.6, 0.4]


def test_another_error_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(monkeypatch, 1.0)
    monkeypatch.setattr(server, "warm_up", lambda *_: (_ for _ in ()).throw(ValueError("damaged")))
    with pytest.raises(ValueError, match="damaged"):
        server._warm_engine(LOADED, Config())
    assert memory.tried == [1.0]
