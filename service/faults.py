"""Describe errors for logs and for the command line, without the data of requests and rows.

The text of an error may contain what a caller sent, or a row of the database: PostgreSQL writes ``DETAIL: Failing row
contains (…)``, Pydantic the refused input, Python the missing key. So the text of an error appears only if its type
rules that out.
"""

import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Final

import psycopg

SHOWN: Final = (
    ArithmeticError,
    AttributeError,
    ImportError,
    IndexError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    TypeError,
)
"""Errors of Python whose text names types, attributes, files and addresses, never the values of a request."""

OWN: Final = "service."
"""The package of our errors, whose sentences are written for readers of the log."""

SHOWN_CLASSES: Final = frozenset({"08", "0A", "23", "25", "28", "3D", "3F", "40", "42", "53", "55", "57", "58"})
"""Classes of SQLSTATE whose primary message names objects of the database, never their contents (PostgreSQL manual,
appendix A). The messages of class 22, for example, quote the value that is out of range."""

NAMES: Final = ("schema", "table", "column", "constraint")
"""The objects that an error of the database names in fields of their own."""

HIDDEN: Final = "(its text may contain data and is not shown)"


def text_of(error: BaseException) -> str:
    """Return the text of an error on one line, or its SQLSTATE and the names of objects if the text may contain data."""
    sqlstate = getattr(error, "sqlstate", None)
    if isinstance(sqlstate, str):
        # psycopg keeps the fields in an object of their own, asyncpg in the error.
        fields = getattr(error, "diag", error)
        text = getattr(fields, "message_primary", None) or getattr(error, "message", None)
        named = [(name, getattr(fields, f"{name}_name", None)) for name in NAMES]
        about = ", ".join([f"SQLSTATE {sqlstate}", *[f"{name} {value}" for name, value in named if value]])
        return f"{text if text and sqlstate[:2] in SHOWN_CLASSES else HIDDEN} [{about}]"
    module = type(error).__module__
    # A class of a library may derive from one of Python's and have another text.
    if module.startswith(OWN) or (module == "builtins" and isinstance(error, SHOWN)):
        return str(error)
    # Without an SQLSTATE, this error is about the connection.
    return str(error).strip() if isinstance(error, psycopg.OperationalError) else HIDDEN


def format_traceback(error: BaseException) -> str:
    """Return the traceback of an error and of its causes, with the texts of ``text_of``.

    Notes are left out, since libraries add values to them.
    """
    return "\n".join(_lines(error, set()))


def _lines(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    cause, context = error.__cause__, None if error.__suppress_context__ else error.__context__
    if cause is not None and id(cause) not in seen:
        yield from _lines(cause, seen)
        yield "\nThe above exception was the direct cause of the following exception:\n"
    elif context is not None and id(context) not in seen:
        yield from _lines(context, seen)
        yield "\nDuring handling of the above exception, another exception occurred:\n"
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):"
        yield from [line.rstrip("\n") for line in traceback.format_tb(error.__traceback__)]
    text = text_of(error)
    yield f"{type(error).__qualname__}: {text}" if text else type(error).__qualname__
    if isinstance(error, BaseExceptionGroup):
        for number, member in enumerate(error.exceptions, start=1):
            yield f"Member {number} of the group:"
            yield from _lines(member, seen)


def install_hooks() -> None:
    """Print an error that ends the program or a thread as ``format_traceback`` shows it."""

    def show(error: BaseException | None) -> None:
        if error is not None:
            print(format_traceback(error), file=sys.stderr)

    sys.excepthook = lambda _type, error, _traceback: show(error)
    threading.excepthook = lambda fault: show(fault.exc_value)
