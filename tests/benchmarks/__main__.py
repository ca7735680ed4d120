"""``make bench``: measure everything in several rounds, and write the ledger, the tables and the chart."""

import argparse
import logging
import resource
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from service.embedded import embedded_server
from tests.benchmarks import report
from tests.benchmarks.data import OPTIONS, cluster_at
from tests.benchmarks.run import NAMES, Options, Run
from tests.benchmarks.servers import OURS

RESULTS: Final = Path(__file__).parent / "results"
DISK: Final = Path("/var/tmp")
"""Not /tmp, which may be memory: a commit has to reach a disk."""


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks; 1 where a database was left in a state that it must not be in."""
    given = sys.argv[1:] if arguments is None else arguments
    options = parse(given)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # The rush needs a file for each caller, here and in what is started from here.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with _folder(options.data) as folder, embedded_server(folder / "postgresql", options=OPTIONS) as url:
        command = shlex.join(["python", "-m", "tests.benchmarks", *given])
        book = Run(options, cluster_at(url), folder / "servers.log").carry_out(command)
    options.output.mkdir(parents=True, exist_ok=True)
    book.write(options.output / "ledger.json")
    report.write(book, options.output)
    if options.readme:
        report.update_readme(report.README, report.document(book))
    print(f"\n{report.reach_table(book)}\n\nwritten to {options.output}")
    wrong = [each for each in book.measurements if each.state.get("consistent") is False]
    for each in wrong:
        print(f"WRONG: {each.scenario}, {each.server}, {each.connections} connections: {each.state}", file=sys.stderr)
    return 1 if any(each.server.startswith(OURS.name) for each in wrong) else 0


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    parser.add_argument("--quick", action="store_true", help="one round of one second each: to see that it runs")
    parser.add_argument("--only", default="", metavar="NAME,…", help=f"some of: {', '.join(NAMES)}")
    parser.add_argument(
        "--largest", type=int, default=1_000_000, metavar="N", help="standing enrollments that growth goes up to"
    )
    parser.add_argument("--data", type=Path, help="a folder to keep the filled databases in, for the next run")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--readme", action="store_true", help="also quote the results in README.md")
    given = parser.parse_args(arguments)
    only = tuple(filter(None, given.only.split(","))) or NAMES
    if unknown := set(only) - set(NAMES):
        parser.error(f"there is no scenario {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    return Options(
        rounds=1 if given.quick else given.rounds,
        seconds=1 if given.quick else given.seconds,
        only=only,
        largest=given.largest,
        data=given.data,
        output=given.output,
        readme=given.readme,
    )


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    """Name a folder for the databases; the one that nobody asked to keep goes in the end."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    made = Path(tempfile.mkdtemp(prefix="enrollment-bench-", dir=DISK if DISK.is_dir() else None))
    # As root, PostgreSQL runs under another account, which has to get through.
    made.chmod(0o711)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
