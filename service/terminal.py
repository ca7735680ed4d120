"""One line on a terminal that shows how far something has come."""

import sys


def show_progress(text: str = "") -> None:
    """Replace the line on the terminal, or clear it; do nothing where standard error is no terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
