"""Interactive calls take rows of batch streams over gRPC; those pause, and lose and double nothing."""

import pytest

from gateway.config import Config
from tests.fakes import FakeWorker
from tests.gateway.losing import asked, told, undisturbed
from tests.gateway.serving import request, serving, until

TRUSTING = Config(listen="127.0.0.1:0", trust_tenant_metadata=True)
BATCH = (("textserve-priority", "batch"),)
INTERACTIVE = (("textserve-priority", "interactive"),)


@pytest.mark.parametrize("in_flight", [0, 1])
async def test_a_batch_stream_goes_on_with_exactly_the_tokens_of_an_undisturbed_run(in_flight: int) -> None:
    (expected,) = await undisturbed(asked("aé"))
    async with serving(FakeWorker(rows=1), config=TRUSTING) as served:
        worker, dispatcher = served.worker, served.gateway.dispatcher
        stream = served.caller.generation.StreamGenerate(asked("aé"), metadata=BATCH)
        await worker.until(lambda: worker.row_count == 1)
        (one,) = dispatcher._running
        worker.step(4)
        await until(lambda: one.output_token_count == 4)

        urgent = served.caller.generation.Generate(request(max_new_tokens=1), metadata=INTERACTIVE)
        await until(lambda: one.preemptions == 1)
        # What the worker makes before it hears of the cancel comes under a name that counts no more.
        worker.step(in_flight)
        (name,) = (each.sequence_id for each in worker.submits[0].sequences)
        await worker.until(lambda: name in worker.cancelled and len(worker.submits) == 2)
        worker.step()
        assert len((await urgent).candidates[0].text) == 1

        await worker.until(lambda: len(worker.submits) == 3 and worker.row_count == 1)
        worker.step(9)
        messages = [message async for message in stream]

        assert told(messages) == expected
        names = {sequence.sequence_id for submit in worker.submits for sequence in submit.sequences}
        assert len(names) == 3, "an id is never used twice on one stream"
        assert messages[-1].finished.receipt.attempt_count == 2
        assert messages[-1].finished.receipt.resumed
        await served.nothing_runs()
