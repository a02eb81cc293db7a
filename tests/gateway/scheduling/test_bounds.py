"""How much may wait: exactly as much as the bounds say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.errors import Code, ServiceError
from gateway.scheduling.backlog import NOTHING, Backlog
from gateway.scheduling.bounds import Bounds

LIMITS = st.integers(1, 20)
BOUNDS = st.builds(
    Bounds, max_queued=LIMITS, max_queued_tokens=LIMITS, max_tenant_queued=LIMITS, max_tenant_queued_tokens=LIMITS
)
LOADS = st.one_of(st.just(NOTHING), st.builds(Backlog, st.integers(1, 25), st.integers(1, 25), st.integers(1, 25)))
WIDE = Bounds(max_queued=100, max_queued_tokens=1000, max_tenant_queued=100, max_tenant_queued_tokens=1000)


def refusal(bounds: Bounds, load: Backlog, tenant_load: Backlog, prompt_tokens: int = 1) -> ServiceError | None:
    try:
        bounds.check(
            "acme",
            load=load,
            tenant_load=tenant_load,
            prompt_tokens=prompt_tokens,
            retry_after_s=lambda backlog: float(backlog.generation_count),
        )
    except ServiceError as error:
        return error
    return None


def is_full(load: Backlog, prompt_tokens: int, limit: int, token_limit: int) -> bool:
    return load.generation_count >= limit or (load != NOTHING and load.prompt_tokens + prompt_tokens > token_limit)


@given(BOUNDS, LOADS, LOADS, st.integers(0, 25))
def test_a_request_is_refused_if_and_only_if_a_bound_is_reached(
    bounds: Bounds, rest: Backlog, own: Backlog, prompt_tokens: int
) -> None:
    load = rest + own
    queue_is_full = is_full(load, prompt_tokens, bounds.max_queued, bounds.max_queued_tokens)
    tenant_is_full = is_full(own, prompt_tokens, bounds.max_tenant_queued, bounds.max_tenant_queued_tokens)

    error = refusal(bounds, load, own, prompt_tokens)

    reason = "QUEUE_FULL" if queue_is_full else "TENANT_QUOTA" if tenant_is_full else None
    assert (error and error.reason) == reason


@given(BOUNDS, st.integers(0, 10**9))
def test_where_nothing_waits_any_prompt_is_taken(bounds: Bounds, prompt_tokens: int) -> None:
    assert refusal(bounds, NOTHING, NOTHING, prompt_tokens) is None


@given(BOUNDS, st.lists(st.integers(1, 10), max_size=60))
def test_what_waits_never_exceeds_the_bounds(bounds: Bounds, prompts: list[int]) -> None:
    load = NOTHING
    for prompt_tokens in prompts:
        if refusal(bounds, load, load, prompt_tokens) is None:
            load += Backlog(1, prompt_tokens, 1)

    assert load.generation_count <= min(bounds.max_queued, bounds.max_tenant_queued)
    assert load.prompt_tokens <= max([min(bounds.max_queued_tokens, bounds.max_tenant_queued_tokens), *prompts[:1]])


@pytest.mark.parametrize(
    ("load", "tenant_load", "subject", "limit", "retry_after_s"),
    [
        (Backlog(100, 0, 0), NOTHING, "queued requests", "100", 100.0),
        (Backlog(7, 1000, 0), NOTHING, "queued prompt tokens", "1000", 7.0),
        (Backlog(7, 60, 0), Backlog(5, 50, 0), "tenant:acme", "3", 5.0),
        (Backlog(7, 60, 0), Backlog(2, 50, 0), "tenant:acme", "40", 2.0),
    ],
)
def test_a_refusal_names_what_is_exhausted_and_when_to_come_again(
    load: Backlog, tenant_load: Backlog, subject: str, limit: str, retry_after_s: float
) -> None:
    narrow = Bounds(max_queued=100, max_queued_tokens=1000, max_tenant_queued=3, max_tenant_queued_tokens=40)

    error = refusal(narrow, load, tenant_load)

    assert error is not None
    assert error.code is Code.RESOURCE_EXHAUSTED
    assert error.quota is not None
    assert error.quota.subject == subject
    assert limit in error.quota.description
    assert error.metadata["limit"] == limit
    assert error.retry_after_s == retry_after_s


def test_before_its_length_is_known_a_request_is_refused_for_its_number_only() -> None:
    load = Backlog(5, 1000, 5)

    assert refusal(WIDE, load, load, 0) is None
    assert refusal(WIDE, load, load, 1) is not None
