"""What handlers find in the application."""

from aiohttp import web

from service.database import Database
from service.registrar import Registrar
from service.registrar.changes import Origin
from service.web.endpoint import Call

DATABASE = web.AppKey("database", Database)
REGISTRAR = web.AppKey("registrar", Registrar)


def origin_of(call: Call, reason: str | None = None) -> Origin:
    """Say who asked for a change."""
    return Origin(call.request_id, call.actor, reason, call.gone)
