"""Attacks on a service that runs: ``python -m tests.attacks [NAME…]`` shows what each does to the other callers.

Each module here that has a ``run()`` is an attack, named after the module: a coroutine function that starts a service
with ``harness.attacked``, attacks it, and returns the ``Figure``s that it measured, each with its target.
"""
