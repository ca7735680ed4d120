"""Keys of what handlers share: of the whole application, and of one institution."""

from aiohttp import web

from service.auth import Authenticator
from service.batching import Coalescer
from service.database import Database
from service.pool import Pool
from service.registrar import Registrar
from service.registrar.changes import Origin
from service.registry import Registry
from service.web.endpoint import Call
from sql import JsonPage
from sql.courses import Course
from sql.enrollments import CoursesAsked, StudentsAsked
from sql.students import Student

AUTHENTICATOR = web.AppKey("authenticator", Authenticator)
REGISTRY = web.AppKey("registry", Registry)
POOL = web.AppKey("pool", Pool)

# The services of one institution.
DATABASE = web.AppKey("database", Database)
REGISTRAR = web.AppKey("registrar", Registrar)
STUDENTS: web.AppKey[Coalescer[int, Student | None]] = web.AppKey("students", Coalescer)
COURSES: web.AppKey[Coalescer[int, Course | None]] = web.AppKey("courses", Coalescer)
COURSES_OF_STUDENTS: web.AppKey[Coalescer[CoursesAsked, JsonPage | None]] = web.AppKey("courses of students", Coalescer)
STUDENTS_OF_COURSES: web.AppKey[Coalescer[StudentsAsked, JsonPage | None]] = web.AppKey(
    "students of courses", Coalescer
)


def origin_of(call: Call, reason: str | None = None) -> Origin:
    """Return the origin of a change: its request, caller and reason."""
    return Origin(call.request_id, call.caller.name, reason, call.disconnected, call.on_behalf_of)
