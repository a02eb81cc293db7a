"""`python -m textserve.client` is the `textserve` command."""

from .cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
