"""Generations of callers, and a scheduler's workers that generate for them, on a clock that a test moves."""

from gateway.domain.generation import Generation
from gateway.domain.sequence import Status
from gateway.domain.tenancy import Caller, Priority, TenantPolicy
from gateway.scheduling.placement import WorkerLoad, is_preemptible
from gateway.scheduling.scheduler import Scheduler
from tests.fakes import ids
from tests.gateway.generations import generation

(TOKEN,) = ids("a")


def asked(
    tenant: str = "",
    priority: Priority = Priority.DEFAULT,
    *,
    arrived_at: float = 0.0,
    deadline_at: float | None = None,
    prompt: str = "ab",
    candidate_count: int = 1,
) -> Generation:
    """A generation that waits."""
    one = generation(prompt=prompt, candidate_count=candidate_count)
    one.caller = Caller(tenant, priority)
    one.deadline_at = deadline_at
    for sequence in one.sequences:
        sequence.timeline.arrived_at = arrived_at
    return one


def interactive(tenant: str = "", *, arrived_at: float = 0.0, candidate_count: int = 1) -> Generation:
    return asked(tenant, Priority.INTERACTIVE, arrived_at=arrived_at, candidate_count=candidate_count)


def batch(tenant: str = "", *, arrived_at: float = 0.0, candidate_count: int = 1) -> Generation:
    return asked(tenant, Priority.BATCH, arrived_at=arrived_at, candidate_count=candidate_count)


def lost(one: Generation) -> Generation:
    """One that a worker gave back or lost."""
    one.submit("worker", 0.0)
    one.requeue()
    return one


class Fleet:
    """Workers that a scheduler keeps busy: each step is a second, and a token for each row."""

    def __init__(self, *limits: int, policy: TenantPolicy | None = None) -> None:
        self.scheduler = Scheduler(policy or TenantPolicy())
        self.queue = self.scheduler.queue
        self.now = 0.0
        self.limits = {f"worker-{number}": limit for number, limit in enumerate(limits)}
        self.running: dict[str, list[Generation]] = {name: [] for name in self.limits}
        self.sent: list[Generation] = []
        self.output_limits: dict[Generation, int] = {}
        self.tokens: dict[str, int] = {}
        """Tokens that tenants were served, those of their prompts included."""

    def loads(self) -> list[WorkerLoad]:
        return [
            WorkerLoad(
                name,
                outstanding=sum(one.row_count for one in self.running[name]),
                limit=limit,
                served=0,
                preemptible=sum(one.row_count for one in self.running[name] if is_preemptible(one)),
                preemptible_since=float(len(self.running[name])),
            )
            for name, limit in self.limits.items()
        ]

    def arrive(self, one: Generation, output_limit: int = 1) -> Generation:
        """It waits; it ends after so many tokens."""
        self.output_limits[one] = output_limit
        self.queue.append(one)
        return one

    def dispatch(self) -> None:
        while assignment := self.scheduler.next(self.loads(), self.now):
            one, running = assignment.generation, self.running[assignment.worker]
            short = assignment.rows_short
            while short > 0:
                victim = next(each for each in reversed(running) if is_preemptible(each))
                short -= victim.row_count
                running.remove(victim)
                victim.preempt()
                self.queue.restore(victim)
            if not one.attempts:
                self._serve(one, len(one.prompt_ids))
            one.submit(assignment.worker, self.now)
            running.append(one)
            self.sent.append(one)

    def step(self) -> None:
        """A token for everything that runs, then what has ended makes room."""
        self.now += 1.0
        for name, running in self.running.items():
            for one in running:
                self._generate(one)
            self.running[name] = [one for one in running if not one.finished]
        self.dispatch()

    def _generate(self, one: Generation) -> None:
        for sequence in one.sequences:
            sequence.push(TOKEN, self.now)
            self._serve(one, 1)
            self.queue.charge(one.caller, 1)
        if one.sequences[0].output_token_count >= self.output_limits[one]:
            one.finish(Status.LENGTH)

    def _serve(self, one: Generation, token_count: int) -> None:
        tenant = one.caller.tenant
        self.tokens[tenant] = self.tokens.get(tenant, 0) + token_count
