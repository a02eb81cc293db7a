"""What a fake worker runs: rows whose tokens a test has written down, and the messages that they lead to."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from google.protobuf.duration_pb2 import Duration

from textserve.internal.v1 import worker_pb2 as pb

Script = Callable[[pb.Submit], Iterable[int]]
"""The tokens of one sequence, from its first one on, given the submission with this sequence alone in it."""

EOS = 1
PROMPT_PART_TOKENS = 3


def logprob_of(token_id: int, top: int = 0) -> pb.TokenLogprobs:
    """What the fake model thinks of a token: exact in float32, and not the same for all of them."""
    return pb.TokenLogprobs(
        logprob=-(token_id % 7 + 1) / 8,
        rank=token_id % 7 + 1,
        top_token_ids=range(top),
        top_logprobs=[-(k + 1) / 8 for k in range(top)],
    )


def beam_score(index: int) -> float:
    """The score of a beam search's candidate."""
    return -(index + 1) / 4


@dataclass
class Row:
    """One running sequence."""

    submit: pb.Submit
    """Its submission, with this sequence alone in it."""
    tokens: Iterator[int]
    remaining: int
    score: float | None = None
    """Set for a beam search, whose tokens all come at the end."""
    started: bool = False

    def ends_with(self, token: int) -> "pb.SequenceFinishReason.ValueType | None":
        """Why the sequence ends with a token; None if it does not."""
        config = self.submit.generation_config
        if token == EOS and not config.ignore_eos:
            return pb.SEQUENCE_FINISH_REASON_END_OF_SEQUENCE
        if token in config.stop_token_ids:
            return pb.SEQUENCE_FINISH_REASON_STOP_TOKEN
        return pb.SEQUENCE_FINISH_REASON_LENGTH if self.remaining == 0 else None


def rows_of(submit: pb.Submit, script: Script) -> Iterator[tuple[int, Row]]:
    """A row for each sequence of a submission, behind what it has generated before."""
    config = submit.generation_config
    for index, sequence in enumerate(submit.sequences):
        alone = pb.Submit()
        alone.CopyFrom(submit)
        del alone.sequences[:]
        alone.sequences.append(sequence)
        done = len(sequence.output_token_ids)
        yield (
            sequence.sequence_id,
            Row(
                submit=alone,
                tokens=islice(script(alone), done, None),
                remaining=config.max_new_tokens - done,
                score=beam_score(index) if config.num_beams > 1 else None,
            ),
        )


def prompt_parts(submit: pb.Submit) -> Iterator[pb.RunResponse]:
    """The log-probabilities of a prompt, in parts."""
    if not submit.prompt_logprobs:
        return
    for position in range(1, len(submit.prompt_token_ids), PROMPT_PART_TOKENS):
        token_ids = submit.prompt_token_ids[position : position + PROMPT_PART_TOKENS]
        part = pb.PromptLogprobs(
            sequence_id=submit.sequences[0].sequence_id,
            position=position,
            logprobs=[logprob_of(token_id, submit.top_logprobs) for token_id in token_ids],
        )
        yield pb.RunResponse(prompt_logprobs=part)


@dataclass
class Engine:
    """The rows of one gateway."""

    rows: dict[int, Row] = field(default_factory=dict[int, Row])

    def step(self, number: int) -> pb.Step:
        """One token for each row; a beam search brings all of its tokens. Rows that end leave."""
        step = pb.Step(step=number)
        for sequence_id, row in tuple(self.rows.items()):
            reason = self._add_token(step, sequence_id, row)
            while reason is None and row.score is not None:
                reason = self._add_token(step, sequence_id, row)
            if reason is not None:
                step.finishes.add(sequence_id=sequence_id, reason=reason, score=row.score)
                del self.rows[sequence_id]
        return step

    def _add_token(self, step: pb.Step, sequence_id: int, row: Row) -> "pb.SequenceFinishReason.ValueType | None":
        token = next(row.tokens, EOS)
        row.remaining -= 1
        step.sequence_ids.append(sequence_id)
        step.token_ids.append(token)
        if row.submit.logprobs:
            step.logprobs.append(logprob_of(token, row.submit.top_logprobs))
        if not row.started:
            row.started = True
            wait, prefill = Duration(nanos=1_000_000), Duration(nanos=2_000_000)
            step.starts.add(sequence_id=sequence_id, wait=wait, prefill=prefill)
        return row.ends_with(token)
