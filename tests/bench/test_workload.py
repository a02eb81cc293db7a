import random

from bench.static_batching import StepListener, by_output
from bench.workload import mixed_set, prompt_tokens, random_prompt, skewed_set, useful_tokens


def test_the_mixed_set_is_the_same_on_every_call_and_within_its_ranges() -> None:
    requests = mixed_set()
    assert requests == mixed_set()
    assert len(requests) == 32
    assert all(8 <= len(request.prompt) <= 95 and 8 <= request.output_count <= 63 for request in requests)


def test_a_longer_mixed_set_begins_with_the_shorter_one() -> None:
    assert mixed_set(48)[:32] == mixed_set()


def test_the_skewed_set_has_one_long_output_among_short_ones() -> None:
    assert [request.output_count for request in skewed_set(long=128, short=16, rows=4)] == [128, 16, 16, 16]
    assert useful_tokens(skewed_set(long=128, short=16, rows=4)) == 176
    assert prompt_tokens(skewed_set(rows=4)) == 128


def test_prompts_hold_no_pad_token() -> None:
    assert 0 not in random_prompt(random.Random(0), 200_000)


def test_sorting_by_output_keeps_every_request() -> None:
    requests = mixed_set()
    ordered = by_output(requests)
    outputs = [request.output_count for request in ordered]
    assert outputs == sorted(outputs, reverse=True)
    assert sorted(map(id, ordered)) == sorted(map(id, requests))


def test_the_prompt_that_generate_puts_first_is_no_step() -> None:
    steps: list[int] = []
    listener = StepListener(steps.append)
    for _ in range(4):
        listener.put(None)  # type: ignore[arg-type]
    listener.end()
    assert steps == [0, 1, 2]
