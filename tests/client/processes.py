"""How to start a process that can import the packages of the checkout, as this one can."""

import os
import sys


def environment(**variables: str) -> dict[str, str]:
    """This process's environment, its import path, and these variables."""
    # Output is buffered, whatever the machine that runs the tests has set: else nobody would notice a missing flush.
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": ""} | variables
