"""What all tests share: nothing that they start outlives them, nothing is decided by how fast examples are drawn."""

import pytest
from hypothesis import HealthCheck, settings

from tests import life_line

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_configure(config: pytest.Config) -> None:
    """Runs in each process that xdist starts, too."""
    config.add_cleanup(life_line.hold())
