"""Folds what a stream tells into the answer that `generate` would have given. Knows no I/O and no protobuf."""

from dataclasses import dataclass, field

from .errors._status import protocol_error
from .types.events import Delta, Event, Finished, PromptLogprobs, Receipt, Started
from .types.values import Candidate, Generation, TokenLogprob


@dataclass(slots=True)
class _Draft:
    """A candidate while it is written."""

    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finished: Finished | None = None

    def append(self, delta: Delta) -> None:
        self.texts.append(delta.text)
        self.token_ids.extend(delta.token_ids)
        self.logprobs.extend(delta.logprobs)

    def candidate(self, finished: Finished) -> Candidate:
        return Candidate(
            text="".join(self.texts),
            finish_reason=finished.finish_reason,
            stop_sequence=finished.stop_sequence,
            stop_token_id=finished.stop_token_id,
            token_ids=tuple(self.token_ids),
            seed=finished.seed,
            logprobs=tuple(self.logprobs),
        )


class Transcript:
    """What a stream has told so far."""

    def __init__(self) -> None:
        self._started: Started | None = None
        self._prompt_logprobs: list[TokenLogprob] = []
        self._drafts: dict[int, _Draft] = {}
        self._last: Finished | None = None

    def __str__(self) -> str:
        """How far it is, in a line."""
        if self._started is None:
            return "not started"
        end = "ended" if self._is_complete else "running"
        count = sum(len(text) for draft in self._drafts.values() for text in draft.texts)
        return f"{end}: model={self._started.model!r} seed={self._started.seed} characters={count}"

    @property
    def has_started(self) -> bool:
        """Whether the generation has begun."""
        return self._started is not None

    @property
    def started(self) -> Started:
        """How it began; RuntimeError before it did."""
        if self._started is None:
            raise RuntimeError("the stream has not started: enter it with `with`, or read from it first")
        return self._started

    @property
    def held_token_ids(self) -> dict[int, tuple[int, ...]]:
        """The token ids that have come, by candidate: those of which anything has come, if only the echo."""
        return {index: tuple(draft.token_ids) for index, draft in self._drafts.items() if draft.texts}

    @property
    def result(self) -> Generation:
        """The whole answer; RuntimeError before every candidate has finished."""
        if self._last is None or not self._is_complete:
            raise RuntimeError("the stream has not ended: read it to its end first")
        return self._generation(self.started, self._last, self._receipt)

    def receive(self, event: Event | None) -> Delta | None:
        """Takes in one event, and returns it if it is a delta. ServerError if it comes out of order.

        None stands for a kind of event that is newer than this client.
        """
        if event is None:
            return None
        if isinstance(event, Started):
            self._started = event
            return None
        if not self.has_started:
            raise protocol_error("the stream did not begin with `started`")
        if isinstance(event, PromptLogprobs):
            self._read(event)
            return None
        return self._written(event)

    def _read(self, part: PromptLogprobs) -> None:
        if part.position != len(self._prompt_logprobs) + 1:
            raise protocol_error(f"log-probabilities of the prompt went on at position {part.position}")
        self._prompt_logprobs.extend(part.logprobs)

    def _written(self, event: Delta | Finished) -> Delta | None:
        draft = self._drafts.setdefault(event.candidate_index, _Draft())
        if draft.finished is not None:
            raise protocol_error(f"candidate {event.candidate_index} went on after it had finished")
        if isinstance(event, Finished):
            draft.finished = self._last = event
            return None
        draft.append(event)
        return event

    def end(self) -> None:
        """Takes in the end of the stream. ServerError if a candidate has not finished, or there was no receipt."""
        if not self._is_complete:
            raise protocol_error("the stream ended before its candidates had finished")
        _ = self._receipt

    @property
    def _receipt(self) -> Receipt:
        if self._last is None or self._last.receipt is None:
            raise protocol_error("the stream ended without a receipt")
        return self._last.receipt

    @property
    def _is_complete(self) -> bool:
        return bool(self._drafts) and all(draft.finished is not None for draft in self._drafts.values())

    def _generation(self, started: Started, last: Finished, receipt: Receipt) -> Generation:
        drafts = [self._drafts[index] for index in sorted(self._drafts)]
        return Generation(
            candidates=tuple(draft.candidate(draft.finished) for draft in drafts if draft.finished is not None),
            usage=last.usage,
            timing=last.timing,
            model=started.model,
            fingerprint=receipt.fingerprint,
            seed=started.seed,
            config=receipt.config,
            worker=receipt.worker,
            attempt_count=receipt.attempt_count,
            resumed=receipt.resumed,
            stop_sequences=receipt.stop_sequences,
            prompt_token_ids=started.prompt_token_ids,
            prompt_logprobs=tuple(self._prompt_logprobs),
            server_request_id=started.server_request_id,
        )
