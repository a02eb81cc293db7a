"""Properties with few examples in `make test`, and with many in `make test-long`."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings

Test = Callable[..., None]


def examples(given: Callable[[Test], Test], *, few: int, many: int) -> Callable[[Test], Test]:
    """Makes two tests of a property over `given`: its own, and `<name>_in_many_examples`, a long one."""

    def decorate(prop: Test) -> Test:
        # By name, as pytest finds tests; a method's class would have to be found first.
        module: dict[str, Any] = prop.__globals__
        name = f"{prop.__name__}_in_many_examples"
        assert name not in module
        module[name] = pytest.mark.long(settings(max_examples=many)(given(prop)))
        return settings(max_examples=few)(given(prop))

    return decorate
