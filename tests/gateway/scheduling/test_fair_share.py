"""Tenants that wait get tokens by their weights, and nobody gains by what it sends or by having been away."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain.tenancy import Caller, Priority, TenantPolicy
from gateway.scheduling.fair_share import MAX_REMEMBERED, TokenCounters
from tests.fakes import ids
from tests.gateway.callers import Fleet, asked

TENANTS = ("blue", "green", "red")
MOVES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["come", "go", "look"]), st.sampled_from(TENANTS), st.just(0)),
        st.tuples(st.just("charge"), st.sampled_from(TENANTS), st.integers(1, 50)),
    ),
    max_size=60,
)


class Play:
    """Counters, and who is active as the test knows it."""

    def __init__(self) -> None:
        self.counters = TokenCounters({"blue": 1.0, "green": 2.0, "red": 0.5}.__getitem__)
        self.active: set[str] = set()

    def move(self, kind: str, tenant: str, token_count: int) -> None:
        if kind == "come":
            self.counters.activate(tenant)
            self.active.add(tenant)
        elif kind == "go" and tenant in self.active:
            self.counters.deactivate(tenant)
            self.active.remove(tenant)
        elif kind == "charge":
            self.counters.charge(tenant, token_count)
        else:
            self.counters.least()

    def told(self) -> dict[str, float]:
        return {tenant: self.counters.counter(tenant) for tenant in TENANTS}


@given(MOVES)
def test_counters_never_go_backwards(moves: list[tuple[str, str, int]]) -> None:
    play = Play()
    before = play.told()
    for move in moves:
        play.move(*move)
        now = play.told()
        assert all(now[tenant] >= before[tenant] for tenant in TENANTS)
        before = now


@given(MOVES)
def test_the_next_one_is_an_active_tenant_that_was_served_least(moves: list[tuple[str, str, int]]) -> None:
    play = Play()
    for move in moves:
        play.move(*move)
        least, told = play.counters.least(), play.told()
        assert (least in play.active) == bool(play.active)
        assert least is None or told[least] == min(told[tenant] for tenant in play.active)


@given(MOVES, st.sampled_from(TENANTS))
def test_who_was_away_has_saved_nothing_up(moves: list[tuple[str, str, int]], tenant: str) -> None:
    play = Play()
    for move in moves:
        play.move(*move)
    others = play.active - {tenant}
    play.move("go", tenant, 0)
    away = play.told()[tenant]

    play.move("come", tenant, 0)

    told = play.told()
    assert told[tenant] == away
    assert not others or told[tenant] >= min(told[other] for other in others)


def test_what_was_served_is_remembered_over_a_moment_without_work() -> None:
    counters = TokenCounters(lambda _tenant: 1.0)
    counters.activate("meek")
    counters.activate("greedy")
    counters.charge("greedy", 500)
    counters.deactivate("greedy")

    counters.activate("greedy")

    assert (counters.counter("greedy"), counters.least()) == (500, "meek")


def test_the_weights_that_are_summed_up_are_those_of_the_active() -> None:
    counters = TokenCounters({"blue": 0.1, "green": 0.2}.__getitem__)
    for tenant in ("blue", "green"):
        counters.activate(tenant)
    assert counters.active_weight == pytest.approx(0.3)
    counters.deactivate("green")
    assert counters.active_weight == pytest.approx(0.1)
    counters.deactivate("blue")
    assert counters.active_weight == 0.0


def test_tenants_that_come_once_are_forgotten_whether_others_wait_or_not() -> None:
    for has_company in (False, True):
        counters = TokenCounters(lambda _tenant: 1.0)
        if has_company:
            counters.activate("steady")
        for number in range(1000):
            counters.activate(f"tenant-{number}")
            counters.charge(f"tenant-{number}", 10)
            counters.deactivate(f"tenant-{number}")
            counters.charge(f"tenant-{number}", 100)
            if has_company:
                counters.charge("steady", 111)
            counters.least()
        assert len(counters) < 10


def test_ever_new_names_behind_one_that_always_waits_do_not_pile_up() -> None:
    counters = TokenCounters(lambda tenant: 1000.0 if tenant == "steady" else 1.0)
    counters.activate("steady")
    for number in range(2 * MAX_REMEMBERED):
        counters.activate(f"tenant-{number}")
        counters.charge(f"tenant-{number}", 100)
        counters.deactivate(f"tenant-{number}")
        assert len(counters) <= MAX_REMEMBERED
    assert counters.least() == "steady"
    assert counters.active_weight == 1000.0


def test_who_waits_is_remembered_however_many_there_are() -> None:
    counters = TokenCounters(lambda _tenant: 1.0)
    tenants = [f"tenant-{number}" for number in range(2 * MAX_REMEMBERED)]
    for tenant in tenants:
        counters.activate(tenant)
        counters.charge(tenant, 10)

    assert len(counters) == len(tenants)
    assert min(counters.counter(tenant) for tenant in tenants) >= 10.0


def backlogged(weights: dict[str, float], seed: int, *, greedy: str) -> Fleet:
    """Workers under tenants that always have something waiting; one sends ten times as much, and first."""
    random_ = random.Random(seed)
    fleet = Fleet(6, 6, policy=TenantPolicy(weights=weights))
    for tenant in sorted(weights, key=lambda tenant: tenant != greedy):
        for _ in range(400 if tenant == greedy else 40):
            fleet.arrive(asked(tenant, prompt="a" * random_.randint(1, 30)), random_.randint(1, 40))
    fleet.dispatch()
    return fleet


@settings(max_examples=8, deadline=None)
@given(st.lists(st.sampled_from([1.0, 2.0, 3.0]), min_size=2, max_size=3), st.integers(0, 999))
def test_shares_of_tokens_are_within_a_tenth_of_the_weights_whatever_is_sent(weights: list[float], seed: int) -> None:
    policy: dict[str, float] = dict(zip(TENANTS, weights, strict=False))
    fleet = backlogged(policy, seed, greedy="blue")
    # From here on, after the first round, until the first tenant has little left.
    while min(fleet.queue.work_of(tenant).generation_count for tenant in policy) > 5:
        fleet.step()

    served, fair = sum(fleet.tokens.values()), sum(policy.values())
    for tenant, weight in policy.items():
        assert fleet.tokens[tenant] / served == pytest.approx(weight / fair, rel=0.1)


def test_a_tenant_within_its_share_does_not_wait_for_the_backlog_of_another() -> None:
    fleet = backlogged({"greedy": 1.0, "meek": 1.0}, 1, greedy="greedy")
    for one in [*fleet.queue]:
        if one.caller.tenant == "meek":
            fleet.scheduler.remove(one)
    for _ in range(20):
        fleet.step()

    one = fleet.arrive(asked("meek", arrived_at=fleet.now))
    waited = 0
    while one not in fleet.sent:
        fleet.step()
        waited += 1

    assert waited < 10
    assert fleet.queue.work_of("greedy").generation_count > 300


def test_a_prompt_is_charged_when_it_is_sent_and_not_again_when_another_worker_goes_on() -> None:
    fleet = Fleet(1)
    one = fleet.arrive(asked("blue", prompt="a" * 50), output_limit=9)
    assert fleet.queue.counter(one.caller) == 0
    fleet.dispatch()
    assert fleet.queue.counter(one.caller) == 50
    fleet.step()

    fleet.running["worker-0"].clear()
    one.requeue()
    fleet.scheduler.requeue([one], died=True)
    fleet.dispatch()

    assert fleet.running["worker-0"] == [one]
    assert fleet.queue.counter(one.caller) == 51


def test_output_that_a_caller_holds_is_charged_as_its_prompt_is() -> None:
    fleet = Fleet(1)
    one = asked("blue", prompt="a" * 5)
    for token_id in ids("b" * 40):
        one.sequences[0].replay(token_id)

    fleet.arrive(one, output_limit=50)
    fleet.dispatch()

    assert fleet.queue.counter(one.caller) == 45


@pytest.mark.parametrize("priority", Priority)
def test_what_a_tenant_is_served_counts_in_its_class_alone(priority: Priority) -> None:
    fleet = Fleet(1)
    fleet.arrive(asked("blue", priority))
    fleet.dispatch()

    counted = [fleet.queue.counter(Caller("blue", each)) > 0 for each in Priority]

    assert counted == [each is priority for each in Priority]
