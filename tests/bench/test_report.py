import json

import pytest

from bench.report import Section, show_sections

FIRST = Section({"steps": [{"rows": 1, "ms": 2.5}]}, {"fast": True})
SECOND = Section({"sets": [{"rows": 16, "share": 0.5}]}, {"faster": False})


def test_sections_are_printed_as_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    show_sections("engine", [FIRST, SECOND], as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["bench"] == "engine"
    assert printed["steps"] == [{"rows": 1, "ms": 2.5}]
    assert printed["sets"] == [{"rows": 16, "share": 0.5}]
    assert printed["checks"] == {"fast": True, "faster": False}


def test_what_is_not_finite_is_null_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    show_sections("engine", [Section({"gaps": [{"p99": float("inf"), "p50": 1.0}]}, {})], as_json=True)
    assert json.loads(capsys.readouterr().out)["gaps"] == [{"p99": None, "p50": 1.0}]


def test_a_check_that_was_not_made_is_told_and_fails_the_bench(capsys: pytest.CaptureFixture[str]) -> None:
    assert show_sections("peers", [Section({}, {"faster": None})], as_json=False) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "not measured: faster"


@pytest.mark.parametrize(("sections", "code"), [([FIRST], 0), ([SECOND], 1), ([FIRST, SECOND], 1)])
def test_a_check_that_failed_fails_the_bench(sections: list[Section], code: int) -> None:
    assert show_sections("engine", sections, as_json=False) == code
