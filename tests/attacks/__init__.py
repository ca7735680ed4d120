"""Attacks on a running service: ``python -m tests.attacks [NAME…]`` measures their effects on other callers.

Each module in this package, except the harness, is an attack. Its coroutine function ``run()`` starts a service with
``harness.attacked``, attacks it, and returns the measured ``Figure``s, each with its target.
"""
