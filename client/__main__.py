"""`python -m textserve.client` is the `textserve` command."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
