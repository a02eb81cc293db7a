"""Stands in for the worker process: keeps the contract with the pool and serves nothing.

The file --mode says what it does, and is read at each start, so that a test can change it between two lives:

ready     listens, says so, ends with code 0 on SIGTERM
silent    never says that it is ready
refuse    ends with code 78 and a reason
mute      ends with code 78 and none
crash     says that it is ready and ends with code 1
stubborn  as ready, but ignores SIGTERM
drain     as ready, but on SIGTERM says so on stdout and waits for a connection; a second SIGTERM ends it with code 3
family    as ready, with a child that holds stdout open
chatty    as ready, with words of its own on stdout and the ready line in two parts
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import NoReturn

draining = threading.Event()


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--mode", type=Path, required=True)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--threads")
    parser.add_argument("--max-rows")
    parser.add_argument("--exit-with-stdin", action="store_true", required=True)
    flags = parser.parse_args()
    mode = flags.mode.read_text()
    threading.Thread(target=end_with_stdin, daemon=True).start()
    set_signals(mode)
    if mode == "refuse":
        write("hello from a library\ntextserve-worker refused cannot serve m: config.json is empty\n")
    if mode in {"refuse", "mute"}:
        sys.exit(os.EX_CONFIG)
    if mode == "silent":
        threading.Event().wait()
    with listen(flags.listen.removeprefix("unix:")) as server:
        cuda = os.environ.get("CUDA_VISIBLE_DEVICES")
        say_ready(mode, f"address={flags.listen} threads={flags.threads} cuda={cuda} child={start_child(mode)}")
        serve(mode, server)


def end_with_stdin() -> NoReturn:
    while os.read(0, 1):
        pass
    os._exit(0)


def set_signals(mode: str) -> None:
    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, {"stubborn": ignore, "drain": drain}.get(mode, terminated))


def interrupted(number: int, frame: FrameType | None) -> NoReturn:
    os.write(2, b"interrupted\n")
    os._exit(2)


def terminated(number: int, frame: FrameType | None) -> NoReturn:
    os.write(2, b"terminated\n")
    os._exit(0)


def ignore(number: int, frame: FrameType | None) -> None:
    os.write(2, b"ignored\n")


def drain(number: int, frame: FrameType | None) -> None:
    if draining.is_set():
        os._exit(3)
    draining.set()
    os.write(1, b"draining\n")


def listen(path: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    return server


def start_child(mode: str) -> int | None:
    if mode != "family":
        return None
    return subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], stdin=subprocess.DEVNULL).pid


def say_ready(mode: str, facts: str) -> None:
    line = f"textserve-worker ready {facts}\n"
    if mode == "chatty":
        write("hello from a library\ntextserve-")
        line = line.removeprefix("textserve-")
    write(line)


def write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def serve(mode: str, server: socket.socket) -> None:
    if mode == "crash":
        os._exit(1)
    while True:
        server.accept()[0].close()
        if mode == "drain":
            draining.wait()
            os._exit(0)


if __name__ == "__main__":
    main()
