"""What a capture tells CUDA, without any."""

import warnings

import pytest
import torch

from worker.runners.cuda.capture.capture import _waiting_refused


class SyncMode:
    """torch's mode, which warns whenever it is set, after it has been."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mode: int | str = 0
        monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: self.mode)
        monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", self.set)

    def set(self, mode: int | str) -> None:
        self.mode = mode
        warnings.warn("synchronization debug mode is a prototype feature", UserWarning, stacklevel=2)


def test_where_warnings_are_errors_the_mode_is_set_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    mode = SyncMode(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with _waiting_refused():
            within = mode.mode
    assert (within, mode.mode) == ("error", 0)


def test_the_mode_is_taken_back_behind_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    mode = SyncMode(monkeypatch)
    with pytest.raises(RuntimeError, match="waits"), _waiting_refused():
        raise RuntimeError("it waits")
    assert mode.mode == 0
