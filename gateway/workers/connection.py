"""The connection to one worker: kept up as long as the worker is meant to be there.

Before anything is run there, the worker is asked what it holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic

from grpc import ChannelConnectivity, StatusCode, aio

from textserve.internal.v1 import worker_pb2 as pb
from textserve.internal.v1.worker_pb2_grpc import WorkerServiceStub

from ..domain.generation_config import valid_part
from ..domain.served_model import ModelMismatchError, ServedModel
from ..text.tokenizer import Tokenizer, TokenizerFacts
from .liveness import FaultKind, Liveness, has_unread
from .pool.backoff import Backoff, BackoffPolicy
from .protocol import read_description
from .run_stream import Dispatch, Ending, F, RunStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from textserve.internal.v1.worker_pb2_grpc import WorkerServiceAsyncStub

    from ..domain.generation import Generation
    from ..domain.request import ModelFacts
    from ..domain.served_model import Models
    from ..domain.worker_words import Description
    from ..scheduling.outliers import OutlierDetector
    from .pool.worker_pool import WorkerAddress

logger = logging.getLogger(__name__)

RECONNECT = BackoffPolicy(initial_s=0.1, max_s=5.0, reset_after_s=10.0)
# A broken stream alone may be this process's doing, as may one handshake without an answer: after a stall of its own.
SIGNS_OF_A_HANG = 2
# The answer stands ready: a worker that takes longer is taken to be stopped, or its event loop to be blocked.
DESCRIBE_TIMEOUT_S = 5.0
TOKENIZER_TIMEOUT_S = 120.0
# A connection that has failed says why at once.
REASON_TIMEOUT_S = 1.0


class HandshakeError(Exception):
    """A worker's answers do not fit together."""


@dataclass(frozen=True, slots=True)
class _Lost:
    """What ran in a process when it was taken for dead. Whether it was shows when one answers again.

    Not if its engine hung: an answer says nothing of that.
    """

    incarnation_id: str
    unfinished: tuple[Generation, ...]


class WorkerConnection(Generic[F]):
    """Connects to a worker, learns its model, opens the one stream to it, and does so again when it is lost.

    Args:
        address: Where the worker listens.
        models: Checks, or learns, the worker's model.
        dispatch: Gets the worker, anew for each stream.
        clock: Seconds of a monotonic clock.
        outliers: Is told of each death.
        replace: The pool's; asked to end a worker that hangs, and to start it again.
    """

    def __init__(
        self,
        address: WorkerAddress,
        *,
        models: Models,
        dispatch: Dispatch[F],
        clock: Callable[[], float],
        outliers: OutlierDetector,
        replace: Callable[[WorkerAddress, str], bool],
    ) -> None:
        self._address = address
        self._models = models
        self._dispatch = dispatch
        self._clock = clock
        self._outliers = outliers
        self._replace = replace
        self._lost: _Lost | None = None
        self._signs_of_a_hang = 0
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Starts to connect."""
        self._task = asyncio.create_task(self._keep_up(), name=f"connection {self._address.name}")

    async def close(self) -> None:
        """Gives the worker up. What it ran goes on elsewhere."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _keep_up(self) -> None:
        backoff = Backoff(RECONNECT)
        while True:
            began_at = self._clock()
            try:
                why = await self._attend()
                if self._hangs and self._replace(self._address, why):
                    return  # the pool ends this connection with the process
            except Exception as error:
                # Whatever it is, this worker or the next in its place may do better; without a connection none is used.
                logger.exception("%s: a connection failed", self._address.name)
                why = f"unexpected {type(error).__name__}"
            delay_s = backoff.next_delay(uptime_s=self._clock() - began_at, chance=random.random())  # noqa: S311 - jitter
            logger.warning("%s: %s; next attempt in %.1f s", self._address.name, why, delay_s)
            await asyncio.sleep(delay_s)

    async def _attend(self) -> str:
        """Serves one connection to its end, and returns why it ended."""
        target = self._address.target
        async with aio.insecure_channel(target, options=worker_channel_options()) as channel:
            stub: WorkerServiceAsyncStub = WorkerServiceStub(channel)
            try:
                description = await shake_hands(stub, self._models)
            except (HandshakeError, ModelMismatchError) as error:
                return f"refused: {error}"
            except aio.AioRpcError as error:
                self._signs_of_a_hang += error.code() is StatusCode.DEADLINE_EXCEEDED and not self._has_unread()
                return f"no answer from {target}: {await why_unreachable(channel, error)}"
            self._signs_of_a_hang = 0
            with self._models.connected(description.facts):
                logger.info("%s: connected to %s (%s)", self._address.name, target, ", ".join(description.devices))
                self._retract_death(description.incarnation_id)
                return await self._serve(stub, description)

    async def _serve(self, stub: WorkerServiceAsyncStub, description: Description) -> str:
        liveness = Liveness(description.incarnation_id, self._clock())
        stream = RunStream(
            self._address.name,
            self._dispatch,
            liveness,
            self._clock,
            self._has_unread,
            facts=description.facts,
        )
        ending = await stream.serve(stub)
        self._signs_of_a_hang = SIGNS_OF_A_HANG if ending.hangs else int(ending.counted_as_death)
        if ending.counted_as_death:
            self._note_death(ending, description.incarnation_id)
        return ending.why

    def _has_unread(self) -> bool:
        return has_unread(self._address.target)

    @property
    def _hangs(self) -> bool:
        return self._signs_of_a_hang >= SIGNS_OF_A_HANG

    def _note_death(self, ending: Ending, incarnation_id: str) -> None:
        self._outliers.failed(self._address.name, 1, self._clock())
        if ending.fault is None or ending.fault.kind is not FaultKind.HUNG:
            self._lost = _Lost(incarnation_id, ending.unfinished)

    def _retract_death(self, incarnation_id: str) -> None:
        if self._lost is not None and self._lost.incarnation_id == incarnation_id:
            self._dispatch.retract_death(self._lost.unfinished)
        self._lost = None


async def shake_hands(stub: WorkerServiceAsyncStub, models: Models) -> Description:
    """Checks that the worker holds the pool's model, or adopts its model if the pool has none, or none any more.

    Raises HandshakeError, ModelMismatchError, or AioRpcError if the worker can't be reached.
    """
    answer = await stub.Describe(pb.DescribeRequest(), timeout=DESCRIBE_TIMEOUT_S, wait_for_ready=True)
    description = _sound(read_description(answer))
    models.check(description.facts)
    if not models.knows(description.facts):
        models.set_model(ServedModel(description.facts, await fetch_tokenizer(stub, description.facts)))
        logger.info("the model is %s (%s)", description.facts.name, description.facts.fingerprint)
    return description


async def why_unreachable(channel: aio.Channel, error: aio.AioRpcError) -> str:
    """In words, why a worker did not answer. Who waits for a connection in vain is told of his deadline alone."""
    if error.code() is not StatusCode.DEADLINE_EXCEEDED:
        return error.details() or error.code().name
    if channel.get_state() is not ChannelConnectivity.READY:
        stub: WorkerServiceAsyncStub = WorkerServiceStub(channel)
        try:
            await stub.Describe(pb.DescribeRequest(), timeout=REASON_TIMEOUT_S)
        except aio.AioRpcError as reason:
            if reason.code() is not StatusCode.DEADLINE_EXCEEDED:
                return reason.details() or reason.code().name
    return f"nothing came within {DESCRIBE_TIMEOUT_S:g} s"


async def fetch_tokenizer(stub: WorkerServiceAsyncStub, facts: ModelFacts) -> Tokenizer:
    """The worker's tokenizer. Raises HandshakeError if it is not the one that `facts` names."""
    info: pb.TokenizerInfo | None = None
    serialized = bytearray()
    async for message in stub.GetTokenizer(pb.GetTokenizerRequest(), timeout=TOKENIZER_TIMEOUT_S):
        if message.HasField("info"):
            info = message.info
        serialized += message.chunk
    digest = hashlib.sha256(serialized).hexdigest()
    if info is None or not digest == info.sha256 == facts.tokenizer_sha256:
        raise HandshakeError(f"its tokenizer has hash {digest}, not {facts.tokenizer_sha256}")
    parts = TokenizerFacts(
        chat_template=info.chat_template,
        special_tokens=dict(info.special_tokens),
        clean_up_tokenization_spaces=info.clean_up_tokenization_spaces,
        clean_up_bpe=info.clean_up_bpe,
        split_special_tokens=info.split_special_tokens,
    )
    # Large ones take seconds to build.
    try:
        return await asyncio.to_thread(Tokenizer.from_parts, bytes(serialized), parts)
    except ValueError as error:
        raise HandshakeError(f"its tokenizer can't be read: {error}") from error


def _sound(description: Description) -> Description:
    """The description without defaults that no request could have."""
    facts = description.facts
    valid, violations = valid_part(facts.generation_defaults, facts.vocab_size)
    for violation in violations:
        logger.warning("%s: default %s is ignored: %s", facts.name, violation.field, violation.description)
    return replace(description, facts=replace(facts, generation_defaults=valid))


def worker_channel_options() -> list[tuple[str, str | int]]:
    """For the connection to a worker; hangs are noticed by its heartbeats, long before keepalive."""
    return [
        ("grpc.keepalive_timeout_ms", 5_000),
        # Without it a peer that is stopped is noticed after a minute, whatever the keepalive timeout says.
        ("grpc.http2.ping_timeout_ms", 5_000),
        # By default keepalive stops silently after two pings on a quiet connection.
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", 10_000),
        # The connection has its own backoff.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.max_receive_message_length", -1),
        # A worker is never behind a proxy of the environment.
        ("grpc.enable_http_proxy", 0),
    ]
