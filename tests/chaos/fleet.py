"""A gateway with two workers of its own, and what a scene needs to know of them."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import psutil
import tokenizers

from client import AsyncClient
from tests.chaos import scripted_worker
from tests.chaos.callers import Ask, call
from tests.chaos.events import Event, Granted, Killed
from tests.chaos.history import History
from tests.chaos.processes import Process
from tests.chaos.recorder import Recorder, now, recorded
from tests.chaos.rules import Tokens, Violation, violations
from tests.fakes import TOKENIZER
from textserve.internal.v1 import worker_pb2 as pb

TUTOR = Path(__file__).parents[2] / "worker/models/tutor"
READY_S = 120.0
SETTLING_S = 10.0


@dataclass(frozen=True)
class Kind:
    """What the workers run."""

    name: str
    module: str
    flags: tuple[str, ...]
    tokenizer: tokenizers.Tokenizer
    max_new_tokens: int
    texts: tuple[str, ...]
    temperature: float
    is_scripted: bool

    @property
    def prompts(self) -> list[Tokens]:
        return [tuple(self.tokenizer.encode(text).ids) for text in self.texts]

    def text_of(self, prompt: Tokens, output: Tokens) -> str:
        """What an output adds to its prompt."""
        return self._decode((*prompt, *output))[len(self._decode(prompt)) :]

    def _decode(self, ids: Tokens) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


def scripted() -> Kind:
    """Workers without a model: they start in a second, and what they say is known."""
    texts = ("one two three", "four", "five six seven eight nine ten " * 4, "seven eight")
    return Kind("scripted", "tests.chaos.scripted_worker", (), TOKENIZER, 300, texts, temperature=1.0, is_scripted=True)


def model() -> Kind:
    """Real workers with the bundled model in float32, greedy: what runs beside a row does not tell in its tokens.

    Sums in another order differ in the seventh digit. A drawn token would show that once in some ten thousand.
    """
    texts = (
        "A sequence of numbers: 1, 2",
        "I am a cat.",
        "Once upon a time" + ", and again, " * 8,
        "A list of colors:",
    )
    flags = ("--compute-dtype", "float32")
    tokenizer = tokenizers.Tokenizer.from_file(str(TUTOR / "tokenizer.json"))
    return Kind("model", "tests.chaos.model_worker", flags, tokenizer, 400, texts, temperature=0.0, is_scripted=False)


class Trial:
    """One scene's part of a run: its record, from its begin on."""

    def __init__(self, folder: Path, record: Recorder, kind: Kind, tell: Callable[[], None]) -> None:
        self.record = record
        self.began_at = now()
        self._folder = folder
        self._kind = kind
        self._tell = tell

    def events(self) -> list[Event]:
        """What has happened since; the room of streams from before, too."""
        return [event for event in recorded(self._folder) if event.at >= self.began_at or isinstance(event, Granted)]

    async def violations(self, expected: dict[int, Tokens]) -> list[Violation]:
        """What is wrong once everything has come to rest, or has had the time to."""
        deadline = now() + SETTLING_S
        while True:
            self._tell()
            await asyncio.sleep(1.2)  # workers beat once a second
            found = violations(History(self.events()), text_of=self._kind.text_of, expected=expected)
            if not found or now() > deadline:
                return found


class Fleet:
    """The processes of one run. Use `fleet`."""

    def __init__(self, kind: Kind, gateway: Process, client: AsyncClient, folder: Path, record: Recorder) -> None:
        self.kind = kind
        self.gateway = gateway
        self.client = client
        self.folder = folder
        self.record = record
        self._seeds = 1

    def trial(self) -> Trial:
        return Trial(self.folder, self.record, self.kind, self.gateway.tell)

    def seeds(self, count: int) -> int:
        """The first of so many seeds that no other call has."""
        first = self._seeds
        self._seeds += count
        return first

    def killed(self, process: psutil.Process) -> None:
        """The gateway has ended one of its workers."""
        self.record(Killed(now(), process.pid))

    async def ready(self, count: int = 2) -> None:
        """Returns once so many workers take work."""
        async with asyncio.timeout(READY_S):
            # Processes end and come back; nothing in this one could tell us.
            while await self._ready_count() != count:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def undisturbed(self, asks: Iterable[Ask]) -> dict[int, Tokens]:
        """The tokens that calls get when nothing goes wrong."""
        asked = list(asks)
        if self.kind.is_scripted:
            return {ask.seed: scripted_tokens(ask) for ask in asked}
        tokens = await asyncio.gather(*(call(self.client, ask, None) for ask in asked))
        return {ask.seed: got for ask, got in zip(asked, tokens, strict=True)}

    async def _ready_count(self) -> int:
        models = await self.client.models()
        return models[0].ready_worker_count if models else 0


def scripted_tokens(ask: Ask) -> Tokens:
    """What scripted workers say to a call."""
    submit = pb.Submit(sequences=[pb.SubmittedSequence(seed=ask.seed)])
    return tuple(islice(scripted_worker.script(submit), ask.max_new_tokens))


@asynccontextmanager
async def fleet(kind: Kind, *flags: str) -> AsyncIterator[Fleet]:
    """Runs a gateway with two workers."""
    with tempfile.TemporaryDirectory(prefix="textserve-chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        command = ["--listen", "127.0.0.1:0", "--workers", "2", *flags, "--", *kind.flags]
        gateway = Process("tests.chaos.gateway", command, folder, worker=kind.module)
        try:
            await gateway.start()
            address = gateway.ready_line.split(" ready on ")[1].split()[0]
            async with AsyncClient(address) as client:
                yield Fleet(kind, gateway, client, folder, Recorder(folder))
        finally:
            await gateway.stop()
