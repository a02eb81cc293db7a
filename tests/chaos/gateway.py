"""The real gateway process, which records what it takes and what it lets go.

    python -m tests.chaos.gateway FLAGS OF THE GATEWAY

TEXTSERVE_CHAOS_RECORD names the folder of the record, TEXTSERVE_CHAOS_WORKER the module of embedded workers. SIGUSR2
records what the gateway holds.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from unittest import mock

from gateway import cli
from gateway import process as serve
from gateway.config import Config
from gateway.dispatch.dispatcher import Dispatcher
from gateway.domain.generation import Generation
from gateway.domain.sequence import Status
from gateway.server import Gateway
from tests.chaos.events import Admitted, Held, Released
from tests.chaos.recorder import Recorder, now


class RecordedDispatcher(Dispatcher):
    """The gateway's dispatcher, with a record."""

    record: Recorder

    def submit(self, generation: Generation) -> None:
        super().submit(generation)
        self.record(Admitted(now(), os.getpid(), generation.sequences[0].seed))

    def detach(self, generation: Generation, status: Status) -> None:
        super().detach(generation, status)
        ended = generation.error.reason if generation.error else generation.status.name
        self.record(Released(now(), os.getpid(), generation.sequences[0].seed, ended))


class RecordedGateway(Gateway):
    """The gateway, which tells what it holds when it is asked."""

    record: Recorder

    async def start(self) -> None:
        await super().start()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, self._tell)

    def _tell(self) -> None:
        held = self.dispatcher.queued_count, self.dispatcher.running_count, len(asyncio.all_tasks())
        self.record(Held(now(), os.getpid(), *held))


def main() -> int:
    """Runs the gateway."""
    RecordedDispatcher.record = RecordedGateway.record = Recorder(Path(os.environ["TEXTSERVE_CHAOS_RECORD"]))

    def worker_command(config: Config) -> list[str]:
        return [sys.executable, "-m", os.environ["TEXTSERVE_CHAOS_WORKER"]]

    with (
        mock.patch("gateway.server.Dispatcher", RecordedDispatcher),
        mock.patch.object(serve, "Gateway", RecordedGateway),
        mock.patch.object(serve, "worker_command", worker_command),
    ):
        return cli.main()


if __name__ == "__main__":
    sys.exit(main())
