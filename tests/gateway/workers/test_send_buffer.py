"""What one turn of the event loop brings for a worker goes out together, in order."""

from gateway.domain.generation_config import EffectiveConfig, GenerationConfig
from gateway.request.defaults import resolve
from gateway.workers.run_stream import SendBuffer
from tests.gateway.configs import EVERYTHING
from tests.gateway.generations import generation


async def test_submissions_and_cancels_keep_their_order_and_cancels_in_a_row_are_merged() -> None:
    outbox, one, other = SendBuffer(), generation(), generation()
    outbox.submit(one)
    outbox.cancel([7])
    outbox.cancel([8, 9])
    outbox.submit(other)
    outbox.report_queue_depth(3)
    requests = outbox.requests()

    got = [await anext(requests) for _ in range(4)]

    assert [request.WhichOneof("message") for request in got] == ["submit", "cancel", "submit", "demand"]
    assert got[0].submit.sequences[0].sequence_id == one.sequences[0].sequence_id
    assert list(got[1].cancel.sequence_ids) == [7, 8, 9]
    assert got[2].submit.sequences[0].sequence_id == other.sequences[0].sequence_id
    assert got[3].demand.queued_count == 3


async def test_a_demand_that_the_worker_knows_is_not_told_again() -> None:
    outbox = SendBuffer()
    requests = outbox.requests()
    outbox.report_queue_depth(2)
    assert (await anext(requests)).demand.queued_count == 2

    outbox.report_queue_depth(5)
    outbox.report_queue_depth(2)
    outbox.close()

    assert await anext(requests, None) is None


async def test_a_submission_has_every_parameter_and_the_seed_of_its_sequence() -> None:
    outbox = SendBuffer()
    one = generation(candidate_count=2)
    one.config = resolve(EVERYTHING, GenerationConfig(), room=500, seed=1)
    outbox.submit(one)

    submit = (await anext(outbox.requests())).submit

    given = {field.name for field, _ in submit.generation_config.ListFields()}
    assert [sequence.seed for sequence in submit.sequences] == [0, 1]
    assert given == set(EffectiveConfig.__slots__) - {"seed"}
