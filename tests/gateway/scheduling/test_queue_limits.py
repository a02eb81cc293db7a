"""How much may wait: exactly as much as the limits say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.errors import Code, ServiceError
from gateway.scheduling.admission_control import QueueLimits
from gateway.scheduling.queue import NOTHING, QueuedWork

LIMITS = st.integers(1, 20)
BOUNDS = st.builds(
    QueueLimits, max_queued=LIMITS, max_queued_tokens=LIMITS, max_tenant_queued=LIMITS, max_tenant_queued_tokens=LIMITS
)
LOADS = st.one_of(st.just(NOTHING), st.builds(QueuedWork, st.integers(1, 25), st.integers(1, 25), st.integers(1, 25)))
WIDE = QueueLimits(max_queued=100, max_queued_tokens=1000, max_tenant_queued=100, max_tenant_queued_tokens=1000)


def refusal(
    limits: QueueLimits, work: QueuedWork, tenant_work: QueuedWork, prompt_tokens: int = 1
) -> ServiceError | None:
    try:
        limits.check(
            "acme",
            work=work,
            tenant_work=tenant_work,
            prompt_tokens=prompt_tokens,
            retry_after_s=lambda backlog: float(backlog.generation_count),
        )
    except ServiceError as error:
        return error
    return None


def is_full(work: QueuedWork, prompt_tokens: int, limit: int, token_limit: int) -> bool:
    return work.generation_count >= limit or (work != NOTHING and work.prompt_tokens + prompt_tokens > token_limit)


@given(BOUNDS, LOADS, LOADS, st.integers(0, 25))
def test_a_request_is_refused_if_and_only_if_a_bound_is_reached(
    limits: QueueLimits, rest: QueuedWork, own: QueuedWork, prompt_tokens: int
) -> None:
    work = rest + own
    queue_is_full = is_full(work, prompt_tokens, limits.max_queued, limits.max_queued_tokens)
    tenant_is_full = is_full(own, prompt_tokens, limits.max_tenant_queued, limits.max_tenant_queued_tokens)

    error = refusal(limits, work, own, prompt_tokens)

    reason = "QUEUE_FULL" if queue_is_full else "TENANT_QUOTA" if tenant_is_full else None
    assert (error and error.reason) == reason


@given(BOUNDS, st.integers(0, 10**9))
def test_where_nothing_waits_any_prompt_is_taken(limits: QueueLimits, prompt_tokens: int) -> None:
    assert refusal(limits, NOTHING, NOTHING, prompt_tokens) is None


@given(BOUNDS, st.lists(st.integers(1, 10), max_size=60))
def test_what_waits_never_exceeds_the_bounds(limits: QueueLimits, prompts: list[int]) -> None:
    work = NOTHING
    for prompt_tokens in prompts:
        if refusal(limits, work, work, prompt_tokens) is None:
            work += QueuedWork(1, prompt_tokens, 1)

    assert work.generation_count <= min(limits.max_queued, limits.max_tenant_queued)
    assert work.prompt_tokens <= max([min(limits.max_queued_tokens, limits.max_tenant_queued_tokens), *prompts[:1]])


@pytest.mark.parametrize(
    ("work", "tenant_work", "subject", "limit", "retry_after_s"),
    [
        (QueuedWork(100, 0, 0), NOTHING, "queued requests", "100", 100.0),
        (QueuedWork(7, 1000, 0), NOTHING, "queued prompt tokens", "1000", 7.0),
        (QueuedWork(7, 60, 0), QueuedWork(5, 50, 0), "tenant:acme", "3", 5.0),
        (QueuedWork(7, 60, 0), QueuedWork(2, 50, 0), "tenant:acme", "40", 2.0),
    ],
)
def test_a_refusal_names_what_is_exhausted_and_when_to_come_again(
    work: QueuedWork, tenant_work: QueuedWork, subject: str, limit: str, retry_after_s: float
) -> None:
    narrow = QueueLimits(max_queued=100, max_queued_tokens=1000, max_tenant_queued=3, max_tenant_queued_tokens=40)

    error = refusal(narrow, work, tenant_work)

    assert error is not None
    assert error.code is Code.RESOURCE_EXHAUSTED
    assert error.quota is not None
    assert error.quota.subject == subject
    assert limit in error.quota.description
    assert error.metadata["limit"] == limit
    assert error.retry_after_s == retry_after_s


def test_before_its_length_is_known_a_request_is_refused_for_its_number_only() -> None:
    work = QueuedWork(5, 1000, 5)

    assert refusal(WIDE, work, work, 0) is None
    assert refusal(WIDE, work, work, 1) is not None
