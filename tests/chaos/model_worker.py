"""The real worker process, which records its streams, and whose engine hangs from SIGUSR1 on.

    python -m tests.chaos.model_worker FLAGS OF THE WORKER

TEXTSERVE_CHAOS_RECORD names the folder of the record.
"""

import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from unittest import mock

from tests.chaos.recorder import Recorder
from tests.chaos.run_tap import RunTap
from textserve.internal.v1 import worker_pb2 as pb
from worker import cli, server
from worker.domain.outcome import Outcome
from worker.domain.plan import Plan
from worker.engine.engine import Engine
from worker.service.service import Context, WorkerService


class RecordedService(WorkerService):
    """The worker's service, with a record of its streams."""

    tap: RunTap

    async def Run(  # noqa: N802 - gRPC's name
        self, request_iterator: AsyncIterator[pb.RunRequest], context: Context
    ) -> AsyncIterator[pb.RunResponse]:
        run = super().Run
        async for response in self.tap.relay(lambda requests: run(requests, context), request_iterator):
            yield response


def main() -> int:
    """Runs the worker."""
    RecordedService.tap = RunTap(Recorder(Path(os.environ["TEXTSERVE_CHAOS_RECORD"])))
    hangs = threading.Event()
    run = Engine.run

    def run_or_hang(engine: Engine, plan: Plan) -> Outcome:
        if hangs.is_set():
            threading.Event().wait()
        return run(engine, plan)

    signal.signal(signal.SIGUSR1, lambda *_: hangs.set())
    with mock.patch.object(server, "WorkerService", RecordedService), mock.patch.object(Engine, "run", run_or_hang):
        return cli.main()


if __name__ == "__main__":
    sys.exit(main())
