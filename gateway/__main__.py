"""Runs the gateway: `python -m textserve.gateway`."""

import sys

from .cli import main

sys.exit(main())
