"""Run attacks with ``python -m tests.attacks [NAME…]``, and print the measured figures with their targets."""

import argparse
import asyncio
import logging
import pkgutil
import resource
import signal
import sys
from importlib import import_module

from tests import attacks

SHARED = {"__main__", "harness"}


def names() -> list[str]:
    """Return the names of the attacks, which are the other modules of this package."""
    return [module.name for module in pkgutil.iter_modules(attacks.__path__) if module.name not in SHARED]


def main(arguments: list[str] | None = None) -> int:
    """Run attacks one after the other; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one or more of: {', '.join(names())}; all by default"
    )
    given = parser.parse_args(arguments)
    if unknown := set(given.names) - set(names()):
        parser.error(f"unknown attack: {', '.join(sorted(unknown))}; choose from {', '.join(names())}")
    # SIGTERM raises KeyboardInterrupt, so that the embedded server is stopped rather than orphaned.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # Each caller needs a file descriptor, in this process and in the service.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    missed = 0
    for name in given.names or names():
        module = import_module(f"tests.attacks.{name}")
        first, _, _ = (module.__doc__ or "").partition("\n")
        print(f"{name}: {first}", flush=True)
        for figure in asyncio.run(module.run()):
            print(figure, flush=True)
            missed += not figure.holds
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
