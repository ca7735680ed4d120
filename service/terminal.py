"""Progress of long operations, on one line of a terminal."""

import sys


def show_progress(text: str = "") -> None:
    """Replace the progress line on the terminal, or clear it; do nothing if standard error is not a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
