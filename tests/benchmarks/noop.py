"""The ceiling: the server of the service with handlers that do nothing.

Requests pass through the same aiohttp, uvloop, log, ``@endpoint`` and models, are parsed and validated, and get a
response that was created in advance and has about the real size. The difference from the service is the cost of its
work.
"""

import asyncio
import signal
import sys

import uvloop
from aiohttp import web

from service import logs
from service.api.enrollment_types import DryRun, EnrollmentRequest, StudentCoursesQuery
from service.api.fields import IdInPath
from service.app import make_runner, set_up
from service.settings import Settings
from service.web.auth import ANYONE
from service.web.endpoint import Call, endpoint, endpoints_of, register

COURSE = (
    '{"id":%d,"external_id":null,"code":"C000500","title":"Introduction to Subject 500","credits":3,"term_id":null}'
)
ENROLLED = (
    '{"student_id":2500,"results":['
    + ",".join(f'{{"course_id":{id},"outcome":"enrolled","course":{COURSE % id}}}' for id in (500, 600))
    + "]}"
).encode()
COURSES = (
    '{"items":['
    + ",".join(
        f'{{"course_id":{id},"status":"enrolled","position":null,"blocked_by":null,"joined_at":"2030-01-01T00:00:00.000000Z",'
        f'"passed":null,"grade":null,"course":{COURSE % id}}}'
        for id in range(500, 520)
    )
    + '],"next":null}'
).encode()


@endpoint("POST", "/students/{student_id}/enroll", scope="enroll", status=201)
async def enroll_nobody(_call: Call, student_id: IdInPath, query: DryRun, body: EnrollmentRequest) -> web.Response:
    """Return the response of an enrollment."""
    return web.Response(body=ENROLLED, status=201, content_type="application/json")


@endpoint("GET", "/students/{student_id}/courses", scope="read")
async def list_no_courses(_call: Call, student_id: IdInPath, query: StudentCoursesQuery) -> web.Response:
    """Return the response of a student's 20 courses."""
    return web.Response(body=COURSES, content_type="application/json")


@endpoint("GET", "/health/ready", scope="public")
async def ready(_call: Call) -> None:
    """Return that requests are served."""


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    app = web.Application(client_max_size=settings.body_limit)
    register(app, endpoints_of(sys.modules[__name__]))
    set_up(app, settings, services_of=lambda _caller, _within, _writes: {}, authenticate=lambda _: ANYONE)
    runner = make_runner(app, settings)
    await runner.setup()
    await web.TCPSite(runner, settings.host, settings.port).start()
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    logs.configure("json", "INFO")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Settings()))
