"""`python -m resilient`: the same as the console script."""

from __future__ import annotations

from resilient.cli import main

if __name__ == "__main__":
    main()
