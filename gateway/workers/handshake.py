"""Learns from a worker what it holds, before anything is run there."""

import asyncio
import hashlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from grpc import ChannelConnectivity, StatusCode, aio

from textserve.internal.v1 import worker_pb2 as pb
from textserve.internal.v1.worker_pb2_grpc import WorkerServiceStub

from ..domain.generation_config import valid_part
from ..domain.request import ModelFacts
from ..domain.served_model import Models, ServedModel
from ..text.tokenizer import Tokenizer, TokenizerFacts
from .protocol import Description, read_description

if TYPE_CHECKING:
    from textserve.internal.v1.worker_pb2_grpc import WorkerServiceAsyncStub

logger = logging.getLogger(__name__)

# The answer stands ready: a worker that takes longer is taken to be stopped, or its event loop to be blocked.
DESCRIBE_TIMEOUT_S = 5.0
TOKENIZER_TIMEOUT_S = 120.0
# A connection that has failed says why at once.
REASON_TIMEOUT_S = 1.0


class HandshakeError(Exception):
    """A worker's answers do not fit together."""


async def shake_hands(stub: "WorkerServiceAsyncStub", models: Models) -> Description:
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


async def fetch_tokenizer(stub: "WorkerServiceAsyncStub", facts: ModelFacts) -> Tokenizer:
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
