"""The Python client of textserve: text generation over gRPC.

    from textserve.client import Client, Message

    with Client("127.0.0.1:50051") as client:
        print(client.generate("A list of colors: red, blue", max_new_tokens=20).text)

        with client.stream([Message("user", "Tell me a story.")], temperature=0.8, seed=1) as stream:
            for delta in stream:
                print(delta.text, end="", flush=True)
            print(stream.result.finish_reason, stream.result.usage)

`AsyncClient` has the same methods for asyncio. What they take is in `GenerateOptions`; what they raise is drawn in
`errors`. A call ends after 60 seconds unless the client or the call names another timeout.

It must not know the servers: the protos are all that it shares with them.
"""

from importlib.metadata import PackageNotFoundError, version

from ._channel import DEFAULT_ADDRESS, DEFAULT_TIMEOUT
from .async_client import AsyncClient, AsyncStream
from .errors import (
    CallCancelledError,
    DeadlineExceededError,
    DeadlineUnreachableError,
    ErrorDetails,
    FieldViolation,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    ResourceExhaustedError,
    ServerError,
    TextserveError,
    UnauthenticatedError,
    UnavailableError,
)
from .sync_client import Client, Stream
from .types.events import Delta, Started
from .types.generation_config import EarlyStopping, GenerationConfig
from .types.options import GenerateOptions, Priority, TokenizeOptions, ToolChoice
from .types.values import (
    Candidate,
    Estimate,
    FinishReason,
    Generation,
    Message,
    Model,
    ModelCapability,
    ModelLimits,
    Prompt,
    Timing,
    Tokenization,
    TokenLogprob,
    TokenPiece,
    Tool,
    ToolCall,
    TopLogprob,
    Usage,
)

try:
    __version__ = version("textserve")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "unknown"

__all__ = [
    "DEFAULT_ADDRESS",
    "DEFAULT_TIMEOUT",
    "AsyncClient",
    "AsyncStream",
    "CallCancelledError",
    "Candidate",
    "Client",
    "DeadlineExceededError",
    "DeadlineUnreachableError",
    "Delta",
    "EarlyStopping",
    "ErrorDetails",
    "Estimate",
    "FieldViolation",
    "FinishReason",
    "GenerateOptions",
    "Generation",
    "GenerationConfig",
    "InvalidRequestError",
    "Message",
    "Model",
    "ModelCapability",
    "ModelLimits",
    "NotFoundError",
    "PermissionDeniedError",
    "Priority",
    "Prompt",
    "QuotaExceededError",
    "ResourceExhaustedError",
    "ServerError",
    "Started",
    "Stream",
    "TextserveError",
    "Timing",
    "TokenLogprob",
    "TokenPiece",
    "Tokenization",
    "TokenizeOptions",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "TopLogprob",
    "UnauthenticatedError",
    "UnavailableError",
    "Usage",
    "__version__",
]
