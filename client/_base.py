"""What both clients share: everything but input and output, which are in `sync_client` and `async_client`.

Requests are built and answers read in `_wire`, the events of a stream are put together in `_transcript`, the channel is
set up in `_channel`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TypedDict

import grpc

from textserve.v1 import generation_pb2

from ._channel import DEFAULT_ADDRESS, DEFAULT_TIMEOUT, ChannelOptions, Metadata, call_metadata, checked_address
from ._transcript import Transcript
from ._wire.convert import event_from
from .types.events import Delta, Started
from .types.options import Priority, seconds
from .types.values import Generation


class BaseStream:
    """What can be asked of a stream, whoever reads it."""

    def __init__(self) -> None:
        self._transcript = Transcript()

    @property
    def started(self) -> Started:
        """Model, seed and prompt token count. RuntimeError if the stream was neither entered nor read from."""
        return self._transcript.started

    @property
    def held_token_ids(self) -> Mapping[int, tuple[int, ...]]:
        """The token ids that have come so far, by candidate index, if `token_ids` was asked for.

        There are none of a candidate of which the prompt alone has come, as `echo` asks for it. After a lost
        stream this is what `resume_from` takes, with `started.seed` as the seed: the request then goes on behind it.
        """
        return self._transcript.held_token_ids

    @property
    def result(self) -> Generation:
        """The whole answer. RuntimeError before the stream has been read to its end."""
        return self._transcript.result

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._transcript}>"

    def _take(self, message: generation_pb2.StreamGenerateResponse) -> Delta | None:
        """Takes in what has come, and returns it if it is a delta. ServerError if it comes out of order."""
        return self._transcript.receive(event_from(message))


class Terms(TypedDict):
    """What goes with every call, in the words of gRPC's stubs."""

    timeout: float
    metadata: tuple[tuple[str, str | bytes], ...]


class BaseClient(ABC):
    """What a client is told when it is made, checked before anything is sent."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Metadata = (),
        tenant: str | None = None,
        priority: Priority | None = None,
        options: ChannelOptions | None = None,
    ) -> None:
        self._timeout = seconds(timeout)
        self._metadata = call_metadata(metadata, tenant, priority)
        self._address = checked_address(address, credentials)
        self._credentials = credentials
        self._options = options
        self._is_closed = False
        self._open()

    @abstractmethod
    def _open(self) -> None:
        """Makes what there is to make before the first call."""

    def _terms(self, timeout: float | None) -> Terms:
        """The terms of one call. ValueError for a timeout that is none."""
        return {
            "timeout": self._timeout if timeout is None else seconds(timeout),
            "metadata": self._metadata,
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._address!r}, timeout={self._timeout:g}{', closed' * self._is_closed})"
