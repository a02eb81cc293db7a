"""What a worker said and nobody read yet is seen in the kernel's buffers, whoever holds the connection."""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from gateway.workers.liveness import has_unread


@dataclass(frozen=True)
class Connection:
    """A worker, and this process's end of a connection to it."""

    target: str
    worker: socket.socket
    reader: socket.socket


@pytest.fixture(params=["unix", "tcp"])
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connection]:
    family = socket.AF_UNIX if request.param == "unix" else socket.AF_INET
    with socket.socket(family) as listener, socket.socket(family) as reader:
        listener.bind(str(tmp_path / "socket") if request.param == "unix" else ("127.0.0.1", 0))
        listener.listen()
        name = listener.getsockname()
        reader.connect(name)
        worker, _ = listener.accept()
        with worker:
            target = f"unix:{name}" if request.param == "unix" else f"127.0.0.1:{name[1]}"
            yield Connection(target, worker, reader)


def test_bytes_that_wait_are_seen_until_they_are_read(connection: Connection) -> None:
    assert not has_unread(connection.target)

    connection.worker.sendall(b"beat")
    assert has_unread(connection.target)

    assert connection.reader.recv(4) == b"beat"
    assert not has_unread(connection.target)


def test_bytes_from_another_are_not_its_own(connection: Connection) -> None:
    connection.worker.sendall(b"beat")

    assert not has_unread(f"{connection.target}1")


def test_looking_takes_no_descriptor(connection: Connection) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"not from a worker")
    connection.worker.sendall(b"beat")
    before = psutil.Process().num_fds()

    for _ in range(3):
        assert has_unread(connection.target)
        assert not has_unread(f"{connection.target}1")

    assert psutil.Process().num_fds() == before
    os.close(reader)
    os.close(writer)


def test_of_a_name_nothing_is_known(connection: Connection) -> None:
    connection.worker.sendall(b"beat")

    assert not has_unread(connection.target.replace("127.0.0.1", "localhost").replace("unix:", "unix://"))


def test_where_the_system_does_not_list_descriptors_nothing_is_known(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection.worker.sendall(b"beat")
    monkeypatch.setattr("gateway.workers.liveness._DESCRIPTORS", tmp_path / "nowhere")

    assert not has_unread(connection.target)
