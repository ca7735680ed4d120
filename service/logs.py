"""Logging configuration: one JSON object per line for machines, or text for people on a terminal."""

import logging
import logging.config
import sys
import time
from types import TracebackType
from typing import Any, Literal, TypeAlias

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from service import __version__
from service.faults import format_traceback, install_hooks
from service.web.access import AccessHandler

Format = Literal["auto", "text", "json"]

ORDINARY = frozenset({*RESERVED_ATTRS, "taskName", "color_message"})
"""Attributes that any record may have; all others come from ``extra``."""


ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class DiscreetFormatter(logging.Formatter):
    """Formats tracebacks without the data of requests and rows."""

    def formatException(self, ei: ExcInfo) -> str:  # noqa: N802 - overrides
        """Return the traceback of an error."""
        return "" if ei[1] is None else format_traceback(ei[1])


class DiscreetJsonFormatter(DiscreetFormatter, JsonFormatter):
    """Formats one JSON object per line, with the time in UTC as the lines of requests have it."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"


class TextFormatter(DiscreetFormatter):
    """Formats the time, the level, the message and the attributes from ``extra``."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - overrides
        """Return the first line of a record."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        extra = [f"{name}={value}" for name, value in vars(record).items() if name not in ORDINARY]
        return "  ".join([f"{clock} {record.levelname:<7} {record.getMessage()}", *extra])


def configuration(form: Format = "json", level: str = "INFO") -> dict[str, Any]:
    """Return the argument of ``logging.config.dictConfig``; ``auto`` is text if standard output is a terminal."""
    text = form == "text" or (form == "auto" and sys.stdout.isatty())
    json = {
        "()": DiscreetJsonFormatter,
        "fmt": "%(asctime)s %(levelname)s %(name)s %(message)s",
        "rename_fields": {"asctime": "time", "levelname": "level", "name": "logger"},
        "static_fields": {"version": __version__},
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"chosen": {"()": TextFormatter} if text else json},
        "handlers": {
            "stdout": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "chosen"},
            "requests": {"()": AccessHandler, "stream": "ext://sys.stdout", "text": text},
        },
        "root": {"level": level, "handlers": ["stdout"]},
        "loggers": {
            "yoyo": {"level": "WARNING"},
            "service.access": {"handlers": ["requests"], "propagate": False},
        },
    }


def configure(form: Format, level: str) -> None:
    """Configure logging with a format and the lowest level to log."""
    logging.config.dictConfig(configuration(form, level))
    install_hooks()
    # Skip source location, thread and process: collecting them is half the cost of a record.
    logging._srcfile = None  # noqa: SLF001
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
