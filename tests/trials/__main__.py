"""Run a trial with ``python -m tests.trials NAME`` and print its figures."""

import argparse
import asyncio
import signal
from pathlib import Path

from tests.trials import citus, dashboard, failover


def main() -> None:
    """Run one trial."""
    parser = argparse.ArgumentParser(prog="python -m tests.trials", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True)
    named = names.add_parser("failover", help="kill a primary under load and promote its standby")
    named.add_argument("--trials", type=int, default=2, help="number of failovers of each kind")
    for name, purpose in (
        ("nodes", "compare the nodes of a Citus, and an undistributed schema, under the same load"),
        ("move", "move a schema to another node of a Citus under load"),
    ):
        named = names.add_parser(name, help=purpose)
        named.add_argument("url", help="the URL of a database on the coordinator of a Citus, as a superuser")
    named = names.add_parser(
        "dashboard", help="take a picture of the dashboard during a rush; needs prometheus and chromium"
    )
    named.add_argument("picture", type=Path, help="the PNG to write")
    named.add_argument("--seconds", type=float, default=60.0, help="duration of the rush")
    given = parser.parse_args()
    # SIGTERM raises KeyboardInterrupt, so that servers are stopped rather than orphaned.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if given.name == "failover":
        asyncio.run(failover.run(given.trials))
    elif given.name == "dashboard":
        asyncio.run(dashboard.run(given.picture, given.seconds))
    elif given.name == "nodes":
        asyncio.run(citus.compare(given.url))
    else:
        asyncio.run(citus.move(given.url))


if __name__ == "__main__":
    main()
