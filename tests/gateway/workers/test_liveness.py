"""A worker is judged by its messages, on a clock that the test moves."""

from gateway.domain.worker_words import Heartbeat
from gateway.workers.liveness import SILENCE_LIMIT_S, Fault, FaultKind, Liveness


def beat(incarnation_id: str = "a", step_limit_s: float = 0.0, step_elapsed_s: float = 0.0) -> Heartbeat:
    return Heartbeat(incarnation_id, step=7, step_limit_s=step_limit_s, step_elapsed_s=step_elapsed_s)


def test_a_worker_that_is_heard_is_alive() -> None:
    liveness = Liveness("a", now=0.0)
    for now in range(1, 100):
        liveness.heard_at = float(now)
        assert liveness.fault(now + 1.0) is None


def test_silence_is_a_fault() -> None:
    liveness = Liveness("a", now=0.0)

    assert liveness.fault(SILENCE_LIMIT_S) is None
    assert liveness.fault(SILENCE_LIMIT_S + 0.1) == Fault(FaultKind.SILENT, "it has been silent for 3.1 s")


def test_a_step_over_its_announced_limit_is_a_fault() -> None:
    liveness = Liveness("a", now=0.0)
    liveness.beat(beat(step_limit_s=30.0, step_elapsed_s=29.0))
    assert liveness.fault(1.0) is None

    liveness.beat(beat(step_limit_s=30.0, step_elapsed_s=30.5))

    why = "engine step 7 has taken 30.5 s of at most 30.0 s"
    assert liveness.fault(1.0) == Fault(FaultKind.HUNG, why)


def test_a_step_that_came_back_late_is_no_fault_until_a_heartbeat_says_so_again() -> None:
    liveness = Liveness("a", now=0.0)
    liveness.beat(beat(step_limit_s=30.0, step_elapsed_s=30.5))

    liveness.has_stepped = True
    assert liveness.fault(1.0) is None

    liveness.beat(beat(step_limit_s=3.0, step_elapsed_s=3.5))
    assert liveness.fault(1.0) is not None


def test_an_idle_engine_has_no_limit() -> None:
    liveness = Liveness("a", now=0.0)
    liveness.beat(beat(step_limit_s=0.0, step_elapsed_s=5.0))

    assert liveness.fault(1.0) is None


def test_another_incarnation_is_a_fault() -> None:
    liveness = Liveness("a", now=0.0)
    liveness.beat(beat(incarnation_id="b"))

    assert liveness.fault(1.0) == Fault(FaultKind.REPLACED, "another process answers in its place")
