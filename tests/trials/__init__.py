"""Trials of a running service: each exposes real servers to one kind of fault. ``make faults`` runs all of them.

Each module in ``TRIALS`` is a trial. Its coroutine function ``run()`` starts a service, usually with ``harness.running``,
does harm to it, and returns the measured ``Figure``s, each with its target. A trial with a constant ``SIZE`` takes a size.
"""

from typing import Final

TRIALS: Final = (
    "crash",
    "commit",
    "outage",
    "restart",
    "failover",
    "sigterm",
    "schema_change",
    "full_disk",
    "half_open",
    "unread",
    "hostile",
    "bombs",
    "errors",
    "tokens",
    "long_poll",
    "pipelining",
    "overload",
    "starvation",
    "fairness",
    "soak",
    "replicas",
)
"""The names of the trials, the most important ones first."""
