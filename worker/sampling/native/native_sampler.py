"""A sampler in C for logits on a CPU. Where nothing is left to a row, and on other devices, torch chooses."""

from collections.abc import Sequence as Rows
from pathlib import Path

import numpy as np
from torch import Tensor

from ...domain.outcome import TokenLogprob
from ...domain.sequence import Sequence
from ..rows import Row, rows_of
from ..sampler import Sampled, sample
from ..warpers import LEAST_TEMPERATURE
from .edits import edits_of
from .structures import Answer, Edit, Functions, Outcome, Settings

SOURCE = Path(__file__).parent / "sampling.c"
FLAGS = ("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
"""What it has to be compiled with beside optimization: every product is rounded, as torch's are."""


class NativeSampler:
    """Chooses the tokens that `sample` chooses."""

    def __init__(self, path: Path, threads: int) -> None:
        """Takes where SOURCE was compiled to, and how many threads compute. Raises OSError if it cannot be loaded."""
        self._functions = Functions(str(path))
        self._threads = threads

    def __call__(self, logits: Tensor, rows: Rows[Sequence]) -> Sampled:
        """Chooses the next token of each row, as `sample`."""
        if logits.device.type != "cpu":
            return sample(logits, rows)
        raw = logits.float().contiguous()
        answers = self._answers(raw, rows)
        outcomes = [answer.outcome for answer in answers]
        sampled = Sampled(
            [answer.token for answer in answers],
            [outcome != Outcome.NOT_FINITE for outcome in outcomes],
            [
                _logprob(answer) if row.parameters.logprobs and outcome == Outcome.CHOSEN else None
                for answer, row, outcome in zip(answers, rows, outcomes, strict=True)
            ],
        )
        stuck = [index for index, outcome in enumerate(outcomes) if outcome == Outcome.NONE_LEFT]
        if stuck:
            others = sample(raw[stuck], [rows[index] for index in stuck])
            for index, token, logprob in zip(stuck, others.tokens, others.logprobs, strict=True):
                sampled.tokens[index], sampled.logprobs[index] = token, logprob
        return sampled

    def _answers(self, raw: Tensor, rows: Rows[Sequence]) -> Rows[Answer]:
        count, most = len(rows), max((row.parameters.top_logprobs for row in rows), default=0)
        settings, answers = (Settings * count)(), (Answer * count)()
        top_ids = np.empty((count, most), dtype=np.int64)
        top_logprobs = np.empty((count, most), dtype=np.float32)
        held: list[object] = []
        for row in rows_of(raw, rows):
            place = row.index
            settings[place] = row.kept(_settings)
            settings[place].index = len(row.sequence.output)
            edits = edits_of(row)
            if edits:
                array = (Edit * len(edits))(*edits)
                settings[place].edits, settings[place].edit_count = array, len(edits)
                held += [edits, array]
            if most:
                answers[place].top_ids = top_ids[place].ctypes.data
                answers[place].top_logprobs = top_logprobs[place].ctypes.data
        self._functions.sample(raw, settings, answers, self._threads)
        found: list[Answer] = list(answers)
        for place, answer in enumerate(found):
            answer.tops = (top_ids[place], top_logprobs[place])
        return found


def _settings(row: Row) -> Settings:
    """Returns what is the same at every step of a sequence."""
    parameters = row.parameters
    return Settings(
        seed=parameters.seed,
        # As many as there are: all stay.
        top_k=parameters.top_k if parameters.top_k < row.vocabulary else 0,
        temperature=max(parameters.temperature, LEAST_TEMPERATURE),
        rest=1.0 - parameters.top_p if parameters.top_p < 1.0 else -1.0,
        min_p=parameters.min_p,
        typical_p=parameters.typical_p if parameters.typical_p < 1.0 else -1.0,
        epsilon=parameters.epsilon_cutoff,
        samples=parameters.do_sample,
        top_logprobs=parameters.top_logprobs if parameters.logprobs else -1,
    )


def _logprob(answer: Answer) -> TokenLogprob:
    ids, logprobs = answer.tops
    count = answer.top_count
    return TokenLogprob(
        answer.logprob, answer.rank, tuple(zip(ids[:count].tolist(), logprobs[:count].tolist(), strict=True))
    )
