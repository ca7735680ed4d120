"""The export of traces to a collector, if ``otlp_endpoint`` names one and the packages of the extra ``traces`` are there."""

import importlib
import os
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING

import sql
from service import __version__, tracing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider


EXPORT_SECONDS = 2
"""Longest wait for the collector, also at the end: less than the time in which a stopped process must end."""


class TracesUnavailable(Exception):
    """``OTLP_ENDPOINT`` is set, and a package is missing."""

    def __init__(self) -> None:
        super().__init__("OTLP_ENDPOINT needs the packages of requirements/traces.txt: install them, or unset it")


def export_to(endpoint: str) -> "TracerProvider":
    """Send the spans of this process to a collector (OTLP over HTTP), behind and bounded; ``shutdown`` sends the last ones.

    The variables of OpenTelemetry, such as OTEL_TRACES_SAMPLER and OTEL_SERVICE_NAME, apply.

    Raises:
        TracesUnavailable: a package is missing.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise TracesUnavailable from error
    name = os.environ.get("OTEL_SERVICE_NAME", "enrollment-service")
    resource = Resource.create({"service.name": name, "service.version": __version__})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint}/v1/traces", timeout=EXPORT_SECONDS)))
    tracing.install(provider, statement_names())
    return provider


def statement_names() -> Mapping[str, str]:
    """Return the names of all statements by their texts."""
    modules = [importlib.import_module(f"sql.{module.name}") for module in pkgutil.iter_modules(sql.__path__)]
    return {
        value: name
        for module in modules
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str)
    }
