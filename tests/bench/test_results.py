import json
from pathlib import Path

from bench.results import measured_peers, read_results, rows_of


def test_objects_are_found_among_the_lines_of_make_and_the_last_one_of_a_bench_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text(
        f".venv/bin/python -m bench.floor --json\n{json.dumps({'bench': 'engine', 'mixed set': [{'rows': 8}]})}\n"
    )
    second.write_text(
        f"{json.dumps({'bench': 'engine', 'mixed set': [{'rows': 16}]})}\n{json.dumps({'bench': 'floor'})}\n"
    )
    results = read_results([first, second])
    assert set(results) == {"engine", "floor"}
    assert rows_of(results, "engine", "mixed set") == [{"rows": 16}]


def test_the_parts_of_a_bench_that_was_run_in_parts_are_put_together(tmp_path: Path) -> None:
    parts = [{"bench": "engine", "closed loop": [{"rows": 1}]}, {"bench": "engine", "open loop": [{"load": 0.5}]}]
    (tmp_path / "parts").write_text("\n".join(map(json.dumps, parts)))
    results = read_results([tmp_path / "parts"])
    assert rows_of(results, "engine", "closed loop") == [{"rows": 1}]
    assert rows_of(results, "engine", "open loop") == [{"load": 0.5}]


def test_a_bench_or_a_section_that_was_not_run_has_no_rows() -> None:
    assert rows_of({}, "engine", "closed loop") == []
    assert rows_of({"engine": {"bench": "engine"}}, "engine", "closed loop") == []


def test_peers_that_were_measured_come_fastest_first_and_others_are_left_out() -> None:
    table = [
        {"peer": "transformers generate", "tokens/s": 88.5},
        {"peer": "llama.cpp", "tokens/s": None},
        {"peer": "OpenVINO GenAI", "tokens/s": "not installed"},
        {"peer": "textserve", "tokens/s": 230},
    ]
    results = {"peers": {"mixed set": table}}
    assert measured_peers(results) == [("textserve", 230.0), ("transformers generate", 88.5)]


def test_a_peer_that_was_run_at_several_numbers_of_rows_is_named_with_each() -> None:
    table = [{"peer": "llama.cpp", "rows": rows, "tokens/s": 90.0 + rows} for rows in (8, 16)]
    assert measured_peers({"peers": {"mixed set": table}}) == [
        ("llama.cpp, 16 rows", 106.0),
        ("llama.cpp, 8 rows", 98.0),
    ]
