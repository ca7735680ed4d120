"""Enrollment on FastAPI and the SQLAlchemy ORM: one session for each request, courses locked in the order of their ids."""

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import uuid4

import schemas
import uvicorn
from fastapi import Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from models import POSITIONS, Course, Enrollment, Event, Student, now
from sqlalchemy import and_, case, func, make_url, select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import aliased, joinedload
from sqlalchemy.schema import CreateSequence

POOL_SIZE = int(os.environ.get("POOL_SIZE", "20"))

engine = create_async_engine(
    make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+asyncpg"),
    pool_size=POOL_SIZE,
    max_overflow=0,
    # Callers in a rush wait for a connection instead of failing after the default of 30 seconds.
    pool_timeout=600,
)
Session = async_sessionmaker(engine, expire_on_commit=False)
# A read with a single statement needs neither BEGIN nor ROLLBACK.
ReadingSession = async_sessionmaker(engine.execution_options(isolation_level="AUTOCOMMIT"), expire_on_commit=False)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Prepare the sequence for event positions, and close the connections at the end."""
    async with engine.begin() as connection:
        await connection.execute(CreateSequence(POSITIONS, if_not_exists=True))
        last = text("SELECT greatest((SELECT max(position) FROM events), last_value) FROM benchmark_events_position")
        await connection.execute(select(func.setval(POSITIONS.name, await connection.scalar(last))))
    yield
    await engine.dispose()


app = FastAPI(title="Enrollment", lifespan=lifespan)


async def writing_session() -> AsyncIterator[AsyncSession]:
    """Yield a session for one request."""
    async with Session() as session:
        yield session


async def reading_session() -> AsyncIterator[AsyncSession]:
    """Yield a session for one request that only reads."""
    async with ReadingSession() as session:
        yield session


# The connection returns to the pool before the response is sent.
Writing = Annotated[AsyncSession, Depends(writing_session, scope="function")]
Reading = Annotated[AsyncSession, Depends(reading_session, scope="function")]
IdInPath = Annotated[int, Path(ge=1, le=2**63 - 1)]
Limit = Annotated[int, Query(ge=1, le=500)]
Cursor = Annotated[int, Query(ge=0, le=2**63 - 1)]


class Problem(Exception):
    """A request that is refused."""

    def __init__(self, status: int, code: str, detail: str, errors: Iterable[dict[str, Any]] = ()) -> None:
        self.status, self.code, self.detail, self.errors = status, code, detail, list(errors)


@app.exception_handler(Problem)
async def answer_problem(request: Request, problem: Problem) -> JSONResponse:
    """Return a problem document as in RFC 9457."""
    body = {
        "type": f"/problems/{problem.code}",
        "code": problem.code,
        "title": problem.code.replace("_", " ").capitalize(),
        "status": problem.status,
        "detail": problem.detail,
        "instance": request.url.path,
        "request_id": request_id_of(request),
        "errors": problem.errors,
    }
    return JSONResponse(body, problem.status, media_type="application/problem+json")


@app.exception_handler(RequestValidationError)
async def answer_invalid(request: Request, invalid: RequestValidationError) -> JSONResponse:
    """Return a problem document that lists the errors of an invalid request."""
    errors = [
        {"code": error["type"], "pointer": "#/" + "/".join(map(str, error["loc"][1:])), "detail": error["msg"]}
        for error in invalid.errors()
    ]
    return await answer_problem(
        request, Problem(422, "invalid", "; ".join(error["detail"] for error in errors), errors)
    )


def request_id_of(request: Request) -> str:
    """Return the request id of the caller, or a new one."""
    return request.headers.get("x-request-id") or uuid4().hex


def no_student(student_id: int) -> Problem:
    """Return the problem that a student does not exist."""
    return Problem(404, "student_not_found", f"There is no student {student_id}.")


def no_course(course_id: int) -> Problem:
    """Return the problem that a course does not exist."""
    return Problem(404, "course_not_found", f"There is no course {course_id}.")


async def lock_courses(session: AsyncSession, ids: list[int]) -> dict[int, Course]:
    """Lock courses in the order of their ids, which prevents deadlocks, and return them by id."""
    courses = await session.scalars(select(Course).where(Course.id.in_(ids)).order_by(Course.id).with_for_update())
    return {course.id: course for course in courses}


async def load_enrollments(session: AsyncSession, student_id: int, course_ids: list[int]) -> dict[int, Enrollment]:
    """Load a student's enrollments in these courses, by course id; raise ``Problem`` if the student does not exist."""
    mine = and_(Enrollment.student_id == Student.id, Enrollment.course_id.in_(course_ids))
    rows = (
        await session.execute(
            select(Student.id, Enrollment).outerjoin(Enrollment, mine).where(Student.id == student_id)
        )
    ).all()
    if not rows:
        raise no_student(student_id)
    return {enrollment.course_id: enrollment for _, enrollment in rows if enrollment is not None}


def event_of(enrollment: Enrollment, event: str, before: str | None, request_id: str) -> Event:
    """Return the event for a change of an enrollment."""
    return Event(
        type=f"enrollment.{event}",
        request_id=request_id,
        student_id=enrollment.student_id,
        course_id=enrollment.course_id,
        before=None if before is None else {"status": before},
        after={"status": enrollment.status},
    )


def refuse(course_id: int, course: Course | None, enrollment: Enrollment | None, on_full: str) -> dict[str, Any] | None:
    """Return why a student is refused, or None if a seat or a waitlist place is available."""
    if course is None:
        return {"code": "unknown_course", "detail": f"There is no course {course_id}."}
    if enrollment is not None and enrollment.status == "completed":
        return {"code": "already_completed", "detail": f"The student has completed course {course_id}."}
    if course.has_free_seat:
        return None
    if on_full == "fail" or course.waitlist_capacity == 0:
        return {
            "code": "course_full",
            "capacity": course.capacity,
            "seats_taken": course.seats_taken,
            "detail": f"Course {course_id} has {course.seats_taken} of its {course.capacity} seats taken.",
        }
    if course.waitlist_capacity is not None and course.waitlisted >= course.waitlist_capacity:
        return {
            "code": "waitlist_full",
            "waitlist_capacity": course.waitlist_capacity,
            "detail": f"Course {course_id} is full, and so is its waitlist of {course.waitlist_capacity} places.",
        }
    return None


@app.post("/students/{student_id}/enroll", response_model=schemas.EnrollmentResponse, response_model_exclude_unset=True)
async def enroll(
    student_id: IdInPath, body: schemas.EnrollmentRequest, session: Writing, request: Request, response: Response
) -> Any:
    """Enroll a student in courses."""
    request_id = request_id_of(request)
    results: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    async with session.begin():
        courses = await lock_courses(session, body.course_ids)
        enrollments = await load_enrollments(session, student_id, body.course_ids)
        for course_id in dict.fromkeys(body.course_ids):
            course, enrollment = courses.get(course_id), enrollments.get(course_id)
            before = None if enrollment is None else enrollment.status
            result: dict[str, Any] = {"course_id": course_id}
            results.append(result)
            if before in {"enrolled", "waitlisted"}:
                result |= {"outcome": "unchanged", "status": before, "course": course}
                continue
            if (refusal := refuse(course_id, course, enrollment, body.on_full)) is not None:
                result |= {"outcome": "refused", "errors": [refusal]}
                pointer = f"#/course_ids/{body.course_ids.index(course_id)}"
                errors.append({"pointer": pointer, "course_id": course_id, **refusal})
                continue
            if course.has_free_seat:
                course.seats_taken += 1
                result |= {"outcome": "enrolled", "course": course}
            else:
                course.waitlisted += 1
                result |= {"outcome": "waitlisted", "course": course, "position": course.waitlisted}
            if enrollment is None:
                enrollment = Enrollment(student_id=student_id, course_id=course_id)
                session.add(enrollment)
            else:
                enrollment.joined_at = now()
            enrollment.status = result["outcome"]
            enrollment.placed_by = event_of(enrollment, result["outcome"], before, request_id)
        if errors and body.mode == "atomic":
            detail = " ".join(["Nothing was changed.", *(error["detail"] for error in errors)])
            codes = {error["code"] for error in errors}
            if "unknown_course" in codes:
                raise Problem(422, "unknown_course", detail, errors)
            raise Problem(409, codes.pop() if len(codes) == 1 else "enrollment_refused", detail, errors)
    created = any(result["outcome"] in {"enrolled", "waitlisted"} for result in results)
    response.status_code = 201 if created else 200
    return {"student_id": student_id, "results": results}


@app.delete("/students/{student_id}/courses/{course_id}", response_model=schemas.DroppedCourse)
async def drop(student_id: IdInPath, course_id: IdInPath, session: Writing, request: Request) -> Any:
    """Drop a course, or leave its waitlist; the first waitlisted student gets the free seat at once."""
    request_id, outcome = request_id_of(request), "unchanged"
    async with session.begin():
        course = (await lock_courses(session, [course_id])).get(course_id)
        mine = (await load_enrollments(session, student_id, [course_id])).get(course_id)
        if course is None or mine is None:
            raise Problem(404, "enrollment_not_found", f"Student {student_id} has never been enrolled in course {course_id}.")
        before = mine.status
        if before == "completed":
            raise Problem(409, "already_completed", f"The student has completed course {course_id}; it is not dropped.")
        if before in {"enrolled", "waitlisted"}:
            mine.status = outcome = "dropped"
            session.add(event_of(mine, "dropped", before, request_id))
            if before == "waitlisted":
                course.waitlisted -= 1
            else:
                course.seats_taken -= 1
                if course.has_free_seat and course.waitlisted:
                    await promote_first(session, course, request_id)
    return {**shown(mine, None), "course": course, "outcome": outcome}


async def promote_first(session: AsyncSession, course: Course, request_id: str) -> None:
    """Give a free seat to the first waitlisted student."""
    waitlist = select(Enrollment).where(Enrollment.course_id == course.id, Enrollment.status == "waitlisted")
    promoted = await session.scalar(waitlist.order_by(Enrollment.joined_position).limit(1))
    if promoted is not None:
        course.seats_taken += 1
        course.waitlisted -= 1
        promoted.status = "enrolled"
        promoted.joined_at = now()
        promoted.placed_by = event_of(promoted, "promoted", "waitlisted", request_id)


def shown(enrollment: Enrollment, position: int | None) -> dict[str, Any]:
    """Return the fields of an enrollment, without its student and its course."""
    return {
        "student_id": enrollment.student_id,
        "course_id": enrollment.course_id,
        "status": enrollment.status,
        "position": position,
        "joined_at": enrollment.joined_at,
        "passed": enrollment.passed,
        "grade": enrollment.grade,
    }


def page(items: list[Any], limit: int, last: Any) -> dict[str, Any]:
    """Return a page; ``items`` has one more item than ``limit`` if there is a next page."""
    return {"items": items[:limit], "next": str(last(items[limit - 1])) if len(items) > limit else None}


ahead = aliased(Enrollment)
POSITION = case(
    (
        Enrollment.status == "waitlisted",
        select(func.count())
        .where(ahead.course_id == Enrollment.course_id, ahead.status == "waitlisted", ahead.joined_position <= Enrollment.joined_position)
        .scalar_subquery(),
    )
).label("position")


@app.get("/students/{student_id}/courses", response_model=schemas.StudentCourses)
async def list_student_courses(
    student_id: IdInPath, session: Reading, status: schemas.Status | None = None, limit: Limit = 50, cursor: Cursor = 0
) -> Any:
    """List the courses of a student, ordered by course id."""
    statuses = ["enrolled", "waitlisted"] if status is None else [status]
    rows = await session.execute(
        select(Enrollment, POSITION)
        .options(joinedload(Enrollment.course, innerjoin=True))
        .where(Enrollment.student_id == student_id, Enrollment.status.in_(statuses), Enrollment.course_id > cursor)
        .order_by(Enrollment.course_id)
        .limit(limit + 1)
    )
    items = [{**shown(mine, position), "course": mine.course} for mine, position in rows]
    if not items and await session.get(Student, student_id) is None:
        raise no_student(student_id)
    return page(items, limit, lambda item: item["course_id"])


@app.get("/courses/{course_id}/students", response_model=schemas.CourseStudents)
async def list_course_students(
    course_id: IdInPath, session: Reading, status: schemas.Status = "enrolled", limit: Limit = 50, cursor: Cursor = 0
) -> Any:
    """List the students of a course, ordered by student id, or by position if waitlisted."""
    waiting = status == "waitlisted"
    roster = (
        select(Enrollment)
        .options(joinedload(Enrollment.student, innerjoin=True))
        .where(Enrollment.course_id == course_id, Enrollment.status == status)
        .limit(limit + 1)
    )
    if waiting:
        roster = roster.order_by(Enrollment.joined_position).offset(cursor)
    else:
        roster = roster.order_by(Enrollment.student_id).where(Enrollment.student_id > cursor)
    items = [
        {**shown(each, number if waiting else None), "student": each.student}
        for number, each in enumerate(await session.scalars(roster), cursor + 1)
    ]
    if not items and await session.get(Course, course_id) is None:
        raise no_course(course_id)
    return page(items, limit, lambda item: item["position" if waiting else "student_id"])


@app.get("/students/{student_id}", response_model=schemas.Student)
async def read_student(student_id: IdInPath, session: Reading) -> Any:
    """Return a student."""
    student = await session.get(Student, student_id)
    if student is None:
        raise no_student(student_id)
    return student


@app.get("/courses/{course_id}", response_model=schemas.Course)
async def read_course(course_id: IdInPath, session: Reading) -> Any:
    """Return a course with its seats."""
    course = await session.get(Course, course_id)
    if course is None:
        raise no_course(course_id)
    return course


@app.get("/courses", response_model=schemas.Courses)
async def list_courses(session: Reading, limit: Limit = 50, cursor: Cursor = 0) -> Any:
    """List courses, ordered by id."""
    courses = await session.scalars(select(Course).where(Course.id > cursor).order_by(Course.id).limit(limit + 1))
    return page(list(courses), limit, lambda course: course.id)


@app.get("/health/ready")
async def ready(session: Reading) -> dict[str, str]:
    """Return that the service is ready."""
    await session.execute(select(1))
    return {"status": "ready"}


if __name__ == "__main__":
    uvicorn.run(
        app,
        host=os.environ.get("HOST", "127.0.0.1"),
        port=int(os.environ.get("PORT", "8080")),
        loop="uvloop",
        http="httptools",
        backlog=4096,
        access_log=False,
        log_level="warning",
    )
