"""Where a model's files come from: what is no folder, and a hub that cannot be reached."""

import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from worker.domain.config import Config
from worker.domain.refusal import Refusal
from worker.loading.checkpoint.hub import Files, is_reachable, source
from worker.loading.checkpoint.preflight import check_checkpoint


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A hub at which nobody listens, and a clock that forbids to wait for it."""

    def refuse(seconds: float) -> None:
        raise AssertionError(f"somebody waits {seconds} s for the hub")

    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        address = "http://127.0.0.1:{1}".format(*unheard.getsockname())
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(time, "sleep", refuse)
        yield address


@pytest.mark.parametrize("model", ["models/typo", "typo"])
def test_a_name_that_is_no_folder_is_refused_without_a_retry_when_the_hub_cannot_be_reached(
    endpoint: str, model: str
) -> None:
    with pytest.raises(Refusal) as refused:
        check_checkpoint(Files(Config(model=model)))
    assert str(Path.cwd() / model) in str(refused.value)
    assert f"{endpoint} cannot be reached" in str(refused.value)


def test_a_hub_that_cannot_be_reached_is_asked_once_and_its_copies_are_used(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert source(Config(model="org/model", revision="v1")) == {
        "trust_remote_code": False,
        "revision": "v1",
        "local_files_only": True,
    }
    monkeypatch.setattr(urllib.request, "urlopen", None)
    assert not is_reachable()


def test_a_hub_that_is_switched_off_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(urllib.request, "urlopen", None)
    with pytest.raises(Refusal, match="switched off by HF_HUB_OFFLINE"):
        check_checkpoint(Files(Config(model="org/model")))


def test_a_folder_needs_no_hub(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", None)
    assert source(Config(model=str(llama_folder))) == {"trust_remote_code": False}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("model.gguf", "it is a GGUF file"),
        ("model.safetensors", "it is a file: give the folder"),
        ("missing", "there is no such folder"),
    ],
)
def test_a_path_that_is_no_folder_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    for each in ("model.gguf", "model.safetensors"):
        (tmp_path / each).touch()
    with pytest.raises(Refusal, match=reason):
        Files(Config(model=str(tmp_path / name)))


@pytest.mark.parametrize("model", ["", "a/b/c", "two words", "models/", "~/model", "./model", "a--b"])
def test_what_can_be_no_name_on_the_hub_is_not_looked_for_there(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", None)
    with pytest.raises(Refusal, match="there is no such folder"):
        Files(Config(model=model))
