"""Whether an address is free is found out without taking it."""

import errno
import socket
from pathlib import Path

import pytest

from worker.service.address import check_free


def refusal(address: str) -> int | None:
    with pytest.raises(OSError, match=r".") as caught:
        check_free(address)
    return caught.value.errno


def test_a_path_that_nobody_has_is_free_and_stays_so(tmp_path: Path) -> None:
    for form in (f"unix:{tmp_path}/worker.sock", f"unix://{tmp_path}/worker.sock"):
        check_free(form)
    assert list(tmp_path.iterdir()) == []


def test_a_path_at_which_somebody_listens_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "worker.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert refusal(f"unix:{path}") == errno.EADDRINUSE
        assert refusal(f"unix://{path}") == errno.EADDRINUSE
    check_free(f"unix:{path}")  # what the dead leave over is free


def test_a_file_is_no_free_path(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.touch()
    assert refusal(f"unix:{path}") == errno.EADDRINUSE


def test_a_path_in_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    assert refusal(f"unix:{tmp_path}/nowhere/worker.sock") == errno.ENOENT


def test_a_relative_path_is_one_of_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_free("unix:worker.sock")
    Path("worker.sock").mkdir()
    assert refusal("unix:worker.sock") == errno.EADDRINUSE


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_port_at_which_somebody_listens_is_in_use(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{host}:{server.getsockname()[1]}"
        assert refusal(address) == errno.EADDRINUSE
    check_free(address)


def test_any_port_is_free() -> None:
    check_free("127.0.0.1:0")


def test_a_host_that_does_not_exist_is_refused() -> None:
    assert refusal("nowhere.invalid:50051") in {socket.EAI_NONAME, socket.EAI_AGAIN, socket.EAI_FAIL}


@pytest.mark.parametrize("address", ["unix-abstract:worker", "dns:///localhost:1", "ipv4:127.0.0.1:1"])
def test_forms_that_only_grpc_knows_pass(address: str) -> None:
    check_free(address)
