"""How a delivery to a webhook is made: signed, to an address that may be reached, and repeated until it succeeds."""

from typing import Final

ATTEMPTS_KEPT: Final = 100
"""Attempts of each webhook that are kept: those of a day and more if it fails, and those of the last events otherwise."""
