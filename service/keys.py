"""What handlers find in the application."""

from aiohttp import web

from service.database import Database
from service.registrar import Registrar

DATABASE = web.AppKey("database", Database)
REGISTRAR = web.AppKey("registrar", Registrar)
