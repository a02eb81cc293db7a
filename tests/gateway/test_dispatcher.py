"""The dispatcher, where it needs no connection to be seen at work."""

from gateway.dispatcher import Dispatcher
from gateway.link import _Stream
from gateway.liveness import Heartbeat, Liveness
from gateway.outbox import Outbox
from gateway.queueing import Queue
from gateway.session import Session
from gateway.worker_messages import Credits
from tests.gateway.generations import generation


def dispatcher(queue: Queue) -> Dispatcher:
    return Dispatcher(queue, worker_wait_s=60.0, clock=lambda: 0.0, on_workers_changed=lambda _count: None)


async def test_what_a_draining_worker_never_began_keeps_its_order() -> None:
    queue = Queue(8)
    dispatching = dispatcher(queue)
    worker = Session("worker-0", Outbox())
    worker.sequence_limit = 3
    dispatching.add(worker)
    waiting = [generation() for _ in range(4)]
    for one in waiting:
        dispatching.submit(one)
    worker.draining = True

    dispatching.remove(worker, "the worker has drained")

    assert list(queue) == waiting
    dispatching.close()


async def test_a_worker_whose_engine_hangs_is_given_no_work() -> None:
    dispatching = dispatcher(Queue(8))
    stream = _Stream("worker-0", dispatching, Liveness("a", 0.0), lambda: 0.0)

    stream._take(Heartbeat(incarnation_id="a", step=5, step_limit_s=3.0, step_elapsed_s=60.0))
    stream._take(Credits(4))
    assert dispatching.worker_count == 0

    stream._take(Heartbeat(incarnation_id="a", step=5, step_limit_s=0.0, step_elapsed_s=0.0))
    stream._take(Credits(4))
    assert dispatching.worker_count == 1
