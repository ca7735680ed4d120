"""Trials of what ``docs/scale.md`` claims, on real servers: ``python -m tests.trials failover`` and ``… move``."""
