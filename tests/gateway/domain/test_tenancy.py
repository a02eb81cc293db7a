"""Who calls is what metadata says, where an operator trusts it, and within what the tenant is entitled to."""

import math

import pytest

from gateway.domain.errors import ServiceError
from gateway.domain.tenancy import Caller, Priority, TenantPolicy, read_caller

TRUSTING = TenantPolicy(trusted=True)


def test_metadata_counts_for_nothing_unless_it_is_trusted() -> None:
    metadata = {"textserve-tenant": "blue", "textserve-priority": "no such word"}

    assert read_caller(metadata, policy=TenantPolicy()) == Caller("", Priority.DEFAULT)


@pytest.mark.parametrize("priority", Priority)
def test_a_caller_is_the_tenant_and_the_class_that_it_names(priority: Priority) -> None:
    metadata = {"textserve-tenant": "blue", "textserve-priority": priority.name.lower(), "user-agent": "grpc"}

    assert read_caller(metadata, policy=TRUSTING) == Caller("blue", priority)


def test_who_names_nothing_is_of_the_default_class_and_the_nameless_tenant() -> None:
    assert read_caller({}, policy=TRUSTING) == Caller()


@pytest.mark.parametrize("word", ["", "Batch", "urgent", "1", "x" * 5000])
def test_an_unknown_priority_is_refused_and_the_words_are_told(word: str) -> None:
    with pytest.raises(ServiceError) as caught:
        read_caller({"textserve-priority": word}, policy=TRUSTING)

    assert caught.value.reason == "UNKNOWN_PRIORITY"
    (violation,) = caught.value.violations
    assert violation.field == "textserve-priority"
    assert "interactive, default, batch" in violation.description
    assert len(violation.description) < 300


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(ServiceError) as caught:
        read_caller({"textserve-tenant": "x" * 129, "textserve-priority": "urgent"}, policy=TRUSTING)

    assert [violation.field for violation in caught.value.violations] == ["textserve-tenant", "textserve-priority"]


@pytest.mark.parametrize(
    ("tenant", "asked_for", "given"),
    [
        ("crawler", Priority.INTERACTIVE, Priority.BATCH),
        ("crawler", Priority.BATCH, Priority.BATCH),
        ("desk", Priority.INTERACTIVE, Priority.INTERACTIVE),
        ("desk", Priority.BATCH, Priority.BATCH),
        ("unnamed", Priority.INTERACTIVE, Priority.DEFAULT),
        ("unnamed", Priority.BATCH, Priority.BATCH),
    ],
)
def test_a_tenant_gets_no_better_class_than_it_is_entitled_to(
    tenant: str, asked_for: Priority, given: Priority
) -> None:
    best = {"crawler": Priority.BATCH, "desk": Priority.INTERACTIVE, "*": Priority.DEFAULT}
    policy = TenantPolicy(trusted=True, best_priority=best)
    metadata = {"textserve-tenant": tenant, "textserve-priority": asked_for.name.lower()}

    assert read_caller(metadata, policy=policy) == Caller(tenant, given)


def test_a_tenant_without_a_weight_has_that_of_the_others() -> None:
    assert TenantPolicy(weights={"blue": 4.0}).weight("green") == 1.0
    policy = TenantPolicy(weights={"blue": 4.0, "*": 2.0})
    assert (policy.weight("blue"), policy.weight("green")) == (4.0, 2.0)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.inf, math.nan])
def test_a_weight_that_is_no_share_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="blue"):
        TenantPolicy(weights={"blue": weight})
