"""Measure everything in several rounds, and write the ledger, the tables and the chart. ``make bench`` runs this."""

import argparse
import logging
import resource
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from service.embedded import embedded_server
from tests.benchmarks import ledger, report
from tests.benchmarks.data import OPTIONS, ROOT, cluster_at
from tests.benchmarks.ledger import Ledger
from tests.benchmarks.run import NAMES, Options, Run
from tests.benchmarks.servers import OURS

DISK: Final = Path("/var/tmp")
"""Used instead of /tmp, which may be in memory: commits must reach a disk."""
INCOMPLETE: Final = ROOT / ".bench" / "results"
"""The folder for results of incomplete runs, which README.md does not quote."""


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks; return 1 if a server did not start or ours left an inconsistent database."""
    words = sys.argv[1:] if arguments is None else arguments
    given = parse(words)
    if given.report:
        publish(ledger.read(report.LEDGER), report.RESULTS)
        return 0
    # SIGTERM raises KeyboardInterrupt, so that the embedded server is stopped rather than orphaned.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # The rush needs a file descriptor for each caller, in this process and in those that it starts.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    options = Options(
        rounds=1 if given.quick else given.rounds,
        seconds=1 if given.quick else given.seconds,
        only=given.only,
        largest=given.largest,
    )
    with _folder(given.data) as folder, embedded_server(folder / "postgresql", options=OPTIONS) as url:
        run = Run(options, cluster_at(url), folder / "server.log")
        book = run.carry_out(shlex.join(["python", "-m", "tests.benchmarks", *words]))
    complete = given.only == NAMES and not given.quick
    publish(book, report.RESULTS if complete else INCOMPLETE)
    wrong = [each for each in book.measurements if each.state.get("consistent") is False]
    for each in wrong:
        print(f"WRONG: {each.scenario}, {each.server}, {each.connections} connections: {each.state}", file=sys.stderr)
    return 1 if run.broken or any(each.server.startswith(OURS.name) for each in wrong) else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="duration of each measurement")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="run one round of one second for each measurement, to see that everything works",
    )
    parser.add_argument("--only", metavar="NAME,...", help=f"one or more of: {', '.join(NAMES)}")
    parser.add_argument(
        "--largest", type=int, default=1_000_000, metavar="N", help="largest number of existing enrollments in growth"
    )
    parser.add_argument("--data", type=Path, help="keep the filled databases in this folder for the next run")
    parser.add_argument("--report", action="store_true", help="only rewrite the tables and the chart from the ledger")
    given = parser.parse_args(arguments)
    given.only = tuple(given.only.split(",")) if given.only else NAMES
    if unknown := set(given.only) - set(NAMES):
        parser.error(f"unknown scenario: {', '.join(sorted(unknown))}; choose from {', '.join(NAMES)}")
    return given


def publish(book: Ledger, folder: Path) -> None:
    """Write the ledger, its tables and its chart into a folder; update README.md if the run is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    book.write(folder / "ledger.json")
    report.write(book, folder)
    if folder == report.RESULTS:
        report.README.write_text(report.quote(report.README.read_text(), report.in_readme(book)))
    print(f"\n{report.reach_table(book)}\n\nwritten to {folder.relative_to(ROOT)}")


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    """Yield the folder for the databases; a temporary folder is removed at the end."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    made = Path(tempfile.mkdtemp(prefix="enrollment-bench-", dir=DISK if DISK.is_dir() else None))
    # If this process is root, PostgreSQL runs under another account, which must be able to enter the folder.
    made.chmod(0o711)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
