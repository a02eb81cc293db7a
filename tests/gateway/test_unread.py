"""What a worker said and nobody read yet is seen in the kernel's buffers, whoever holds the connection."""

import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from gateway.unread import has_unread


@pytest.fixture(params=["unix", "tcp"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    if request.param == "tcp":
        with socket.create_server(("127.0.0.1", 0)) as made:
            yield made
    else:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(tmp_path / "socket"))
            made.listen()
            yield made


def target(listener: socket.socket) -> str:
    name = listener.getsockname()
    return f"unix:{name}" if isinstance(name, str) else f"{name[0]}:{name[1]}"


def test_bytes_that_wait_are_seen_until_they_are_read(listener: socket.socket) -> None:
    with socket.socket(listener.family) as reader:
        reader.connect(listener.getsockname())
        worker, _ = listener.accept()
        with worker:
            assert not has_unread(target(listener))

            worker.sendall(b"beat")
            assert has_unread(target(listener))

            assert reader.recv(4) == b"beat"
            assert not has_unread(target(listener))


def test_bytes_from_another_are_not_its_own(listener: socket.socket) -> None:
    with socket.socket(listener.family) as reader:
        reader.connect(listener.getsockname())
        worker, _ = listener.accept()
        with worker:
            worker.sendall(b"beat")

            assert not has_unread(f"{target(listener)}1")


def test_looking_takes_no_descriptor(listener: socket.socket) -> None:
    process = psutil.Process()
    before = process.num_fds()

    for _ in range(3):
        assert not has_unread(target(listener))

    assert process.num_fds() == before


def test_a_name_tells_nothing() -> None:
    assert not has_unread("worker.example:50052")


def test_a_system_that_does_not_list_its_files_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.unread._DESCRIPTORS", Path("/nowhere"))
    assert not has_unread("unix:/tmp/worker")
