"""The console script `resilient`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; without its packages, say which extra brings them."""
    try:
        from resilient.cli.app import app

        app()  # which imports the command
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in {"rich", "typer"}:
            raise
        sys.exit(f"resilient: the command line needs {package}: pip install 'resilient-mesh[cli]'")
