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


@pytest.mark.parametrize(("sections", "code"), [([FIRST], 0), ([SECOND], 1), ([FIRST, SECOND], 1)])
def test_a_check_that_failed_fails_the_bench(sections: list[Section], code: int) -> None:
    assert show_sections("engine", sections, as_json=False) == code
