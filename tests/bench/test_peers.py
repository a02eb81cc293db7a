"""The peers' protocol, what follows from the times of tokens, and how a peer that fails is reported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.peer.figures import Bar, Figure, Pair, Result, checks, step_seconds, tables
from bench.peer.process import ROOT, PeerFailedError, PeerProcess
from bench.peer.protocol import Request, Served, Setup, wrong_count
from bench.peers import Program

PEER = """
from bench.peer.protocol import answer

class Peer:
    def serve(self, requests, arrivals):
        print("a library that talks")
        for number, request in enumerate(requests):
            for _ in range(request.output_count - (request.prompt == [13])):
                arrivals.add(number)
        if request.prompt == [666]:
            raise RuntimeError("no such prompt")

answer(lambda setup: Peer())
"""


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(model="model", scratch=str(tmp_path), rows=2, threads=1)


def figure(title: str = "mixed set", tokens: int = 100, **size: int) -> Figure:
    return Figure(title, "tokens/s", tokens, lambda _: [], lambda served: served.seconds, size)


def test_a_peer_makes_the_tokens_asked_for_and_can_be_asked_again(setup: Setup) -> None:
    with PeerProcess([sys.executable, "-c", PEER], setup) as peer:
        peer.prepare()
        for counts in ([1, 3], [2]):
            served = peer.serve([Request([5], count) for count in counts])
            assert [len(times) for times in served.arrivals] == counts
            assert all(0 <= at <= served.seconds for times in served.arrivals for at in times)


def test_a_peer_is_stopped_while_it_is_not_its_turn(setup: Setup) -> None:
    with PeerProcess([sys.executable, "-c", PEER], setup) as peer:
        peer.prepare()
        assert _state(peer.pid) == "T"
        peer.serve([Request([5], 1)])
        assert _state(peer.pid) == "T"


def test_a_peer_that_makes_too_few_tokens_fails(setup: Setup) -> None:
    with PeerProcess([sys.executable, "-c", PEER], setup) as peer:
        peer.prepare()
        with pytest.raises(PeerFailedError, match="request 1 got 2 tokens of 3"):
            peer.serve([Request([5], 3), Request([13], 3)])


def test_a_peer_that_ends_fails_with_its_last_word(setup: Setup) -> None:
    with PeerProcess([sys.executable, "-c", PEER], setup) as peer:
        peer.prepare()
        with pytest.raises(PeerFailedError, match="RuntimeError: no such prompt"):
            peer.serve([Request([666], 1)])


def test_a_peer_that_does_not_answer_in_time_fails(setup: Setup) -> None:
    with (
        PeerProcess([sys.executable, "-c", "import sys; sys.stdin.read()"], setup) as peer,
        pytest.raises(PeerFailedError, match=r"no answer within 0\.1 s"),
    ):
        peer.prepare(limit_s=0.1)


def test_a_peer_that_failed_computes_no_more(setup: Setup) -> None:
    with PeerProcess([sys.executable, "-c", "while True: pass"], setup) as peer:
        with pytest.raises(PeerFailedError, match="no answer"):
            peer.prepare(limit_s=0.1)
        os.waitid(os.P_PID, peer.pid, os.WEXITED | os.WNOWAIT)
        assert _state(peer.pid) == "Z"


def test_a_peer_that_is_not_installed_says_how_to_install_it() -> None:
    with pytest.raises(PeerFailedError, match="not installed: bench/install-peers nobody"):
        Program("nobody", "nothing", "nobody").command()


def test_what_peers_import_of_ours_needs_no_installed_package() -> None:
    program = "import json, sys, bench.peer.protocol; print(json.dumps(list(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    names = {name.split(".")[0] for name in json.loads(answer.stdout)}
    assert not names & {"torch", "transformers", "numpy", "worker", "textserve"}


def test_a_wrong_number_of_tokens_is_told() -> None:
    requests = [Request([1], 2), Request([1], 1)]
    assert not wrong_count(requests, Served([[0.1, 0.2], [0.1]], 0.2))
    assert wrong_count(requests, Served([[0.1, 0.2], [0.1, 0.2]], 0.2)) == "request 1 got 2 tokens of 1"


def test_a_step_is_the_time_between_tokens_where_rows_go_in_step() -> None:
    arrivals = [[1.0, 1.5, 2.0, 2.5], [1.0, 1.5, 2.0, 2.5]]
    assert step_seconds(Served(arrivals, 2.5), rows=2) == 0.5


def test_a_step_takes_all_rows_turns_where_they_run_one_after_the_other() -> None:
    one = [0.1 * number for number in range(1, 11)]
    two = [1 + at for at in one]
    assert step_seconds(Served([one, two], 2.0), rows=2) == pytest.approx(0.2)


def test_a_row_shows_medians_and_the_median_of_the_pairs_ratios() -> None:
    result = Result("other", figure(), [Pair(1.0, 2.0), Pair(2.0, 20.0), Pair(4.0, 4.0)])
    ours, theirs = tables([result])["mixed set"]
    assert (ours["peer"], ours["tokens/s"]) == ("textserve", 50)
    assert (theirs["peer"], theirs["tokens/s"], theirs["textserve is faster by"]) == ("other", 25, 2.0)


def test_a_peer_that_failed_keeps_its_row_with_the_reason() -> None:
    failed = Result("other", figure(), note="not installed: no such package")
    row = tables([failed])["mixed set"][1]
    assert (row["peer"], row["tokens/s"], row["note"]) == ("other", "-", "not installed: no such package")


def test_rows_of_a_table_have_the_same_columns_and_figures_of_a_title_share_one() -> None:
    results = [Result("other", figure("prefill", tokens=size), [Pair(1, 2)]) for size in (512, 1024)]
    table = tables([*results, Result("failed", results[0].figure, note="why")])
    assert [row["peer"] for row in table["prefill"]] == ["textserve", "other", "failed", "textserve", "other"]
    assert len({tuple(row) for row in table["prefill"]}) == 1


def test_a_bar_counts_against_the_fastest_of_its_peers() -> None:
    shared = figure()
    results = [Result("slow", shared, [Pair(1, 5)]), Result("fast", shared, [Pair(1, 1.5)])]
    assert checks(results, [Bar(shared, 2.0, ("slow", "fast"))], rounds=1) == {
        "mixed set: at least 2.0 times slow and fast": False
    }
    assert checks(results, [Bar(shared, 2.0, ("slow",))], rounds=1) == {"mixed set: at least 2.0 times slow": True}


def test_a_bar_between_two_peers_counts_by_what_our_engine_took_beside_each() -> None:
    shared = figure()
    results = [
        Result("fast", shared, [Pair(1, 1.0), Pair(2, 2.0)]),
        Result("rival", shared, [Pair(1, 1.0), Pair(2, 1.0)]),
    ]
    bar = Bar(shared, 0.7, ("rival",), of="fast")
    assert bar.label == "mixed set: fast at least 0.7 times rival"
    assert bar.is_reached(results, rounds=2), "the rival takes 1 and 0.5 times as long"
    assert not Bar(shared, 0.8, ("rival",), of="fast").is_reached(results, rounds=2)


@pytest.mark.parametrize("pairs", [[], [Pair(1, 5), Pair(1, 5)]])
def test_a_bar_is_not_measured_if_a_peer_of_it_did_not_run_to_the_end(pairs: list[Pair]) -> None:
    shared = figure()
    results = [Result("ran", shared, [Pair(1, 5)] * 3), Result("failed", shared, pairs, note="why")]
    assert list(checks(results, [Bar(shared, 2.0, ("ran", "failed"))], rounds=3).values()) == [None]


def test_a_bar_about_a_peer_that_nobody_asked_for_is_left_out() -> None:
    shared = figure()
    assert checks([Result("asked", shared, [Pair(1, 5)])], [Bar(shared, 2.0, ("other",))], rounds=1) == {}


def test_llama_cpps_order_of_rows_puts_each_pair_that_is_rotated_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", sys)  # not installed here, and not needed for this
    from bench.peer.gguf_export import gguf_name, interleave_halves

    weight = np.arange(2 * 4, dtype=np.uint16).reshape(8, 1)  # 2 heads of 4: rows 0 and 2 are rotated together
    assert interleave_halves(weight, heads=2).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert gguf_name("model.layers.3.mlp.up_proj.weight") == "blk.3.ffn_up.weight"


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
