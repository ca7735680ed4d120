"""Run trials with ``python -m tests.trials [NAME[=SIZE]…]``, and write their figures into docs/reliability.md.

``make faults`` runs all of them in their full sizes.
"""

import argparse
import asyncio
import logging
import resource
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from tests.benchmarks.servers import ROOT
from tests.trials import TRIALS, report
from tests.trials.harness import Figure, Skipped


def main(arguments: list[str] | None = None) -> int:
    """Run trials one after the other; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.trials", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME[=SIZE]", help=f"{', '.join(TRIALS)}; all by default")
    parser.add_argument("--report", action="store_true", help="only rewrite the table from the latest figures")
    given = parser.parse_args(arguments)
    sizes = dict(name.partition("=")[::2] for name in given.names or TRIALS)
    if unknown := sizes.keys() - set(TRIALS):
        parser.error(f"unknown trial: {', '.join(sorted(unknown))}; choose from {', '.join(TRIALS)}")
    if given.report:
        report.publish()
        return 0
    # SIGTERM raises KeyboardInterrupt, so that the servers are stopped rather than orphaned.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # Each caller needs a file descriptor, in this process and in the service.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    missed = 0
    for name, size in sizes.items():
        trial = import_module(f"tests.trials.{name}")
        print(f"{name}: {first_line(trial)}", flush=True)
        try:
            figures = asyncio.run(measure(trial, size))
        except Skipped as reason:
            print(f"  skipped: {reason}", flush=True)
            continue
        for figure in figures:
            print(figure, flush=True)
            missed += not figure.holds
        report.keep(name, first_line(trial), size_of(trial, size), figures)
        report.publish()
    print(f"\n{report.table()}\nwritten to {report.DOCUMENT.relative_to(ROOT)}")
    return 1 if missed else 0


async def measure(trial: Any, size: str) -> Sequence[Figure]:
    """Run a trial in the given size, or in its full size."""
    figures: Sequence[Figure] = await (trial.run(int(size or trial.SIZE)) if hasattr(trial, "SIZE") else trial.run())
    return figures


def first_line(trial: Any) -> str:
    """Return what a trial does."""
    return str(trial.__doc__).partition("\n")[0]


def size_of(trial: Any, size: str) -> str:
    """Return the size of a trial as text; empty if it has none."""
    if not hasattr(trial, "SIZE"):
        return ""
    return f"{int(size or trial.SIZE):,} {trial.UNIT}" + (
        f" of {trial.SIZE:,}" if int(size or trial.SIZE) < trial.SIZE else ""
    )


if __name__ == "__main__":
    sys.exit(main())
