"""Enrollment on FastAPI and asyncpg: one transaction for each request, with courses locked in the order of their ids."""

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Annotated, Any, NamedTuple
from uuid import uuid4

import asyncpg
import schemas
import statements as sql
import uvicorn
from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

POOL_SIZE = int(os.environ.get("POOL_SIZE", "20"))

IdInPath = Annotated[int, Path(ge=1, le=2**63 - 1)]
Limit = Annotated[int, Query(ge=1, le=500)]
Cursor = Annotated[int, Query(ge=0, le=2**63 - 1)]


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, asyncpg.Pool]]:
    """Keep the pool open while the application runs."""
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=POOL_SIZE, max_size=POOL_SIZE) as pool:
        await pool.execute(sql.PREPARE_SEQUENCE)
        yield {"pool": pool}


app = FastAPI(title="Enrollment", lifespan=lifespan)


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


class Move(NamedTuple):
    """A change of the status of a student in a course."""

    student_id: int
    course_id: int
    event: str
    before: str | None
    after: str


async def save_moves(
    connection: asyncpg.pool.PoolConnectionProxy, request_id: str, moves: list[Move], courses: list[dict[str, Any]]
) -> None:
    """Save events, states and the counters of the courses."""
    counts = [[course[name] for course in courses] for name in ("id", "seats_taken", "waitlisted")]
    await connection.execute(sql.SAVE_MOVES, request_id, *map(list, zip(*moves, strict=True)), *counts)


def refuse(course_id: int, course: dict[str, Any] | None, before: str | None, on_full: str) -> dict[str, Any] | None:
    """Return why a student is refused, or None if a seat or a waitlist place is available."""
    if course is None:
        return {"code": "unknown_course", "detail": f"There is no course {course_id}."}
    if before == "completed":
        return {"code": "already_completed", "detail": f"The student has completed course {course_id}."}
    capacity, seats_taken, places = course["capacity"], course["seats_taken"], course["waitlist_capacity"]
    if capacity is None or seats_taken < capacity:
        return None
    if on_full == "fail" or places == 0:
        detail = f"Course {course_id} has {seats_taken} of its {capacity} seats taken."
        return {"code": "course_full", "capacity": capacity, "seats_taken": seats_taken, "detail": detail}
    if places is not None and course["waitlisted"] >= places:
        detail = f"Course {course_id} is full, and so is its waitlist of {places} places."
        return {"code": "waitlist_full", "waitlist_capacity": places, "detail": detail}
    return None


@app.post("/students/{student_id}/enroll", response_model_exclude_unset=True)
async def enroll(
    student_id: IdInPath, body: schemas.EnrollmentRequest, request: Request, response: Response
) -> schemas.EnrollmentResponse:
    """Enroll a student in courses."""
    results: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    moves: list[Move] = []
    async with request.state.pool.acquire() as connection, connection.transaction():
        courses = {row["id"]: dict(row) for row in await connection.fetch(sql.LOCK_COURSES, body.course_ids)}
        rows = await connection.fetch(sql.LOAD_STATUSES, student_id, body.course_ids)
        if not rows:
            raise no_student(student_id)
        statuses = {row["course_id"]: row["status"] for row in rows}
        for course_id in dict.fromkeys(body.course_ids):
            course, before = courses.get(course_id), statuses.get(course_id)
            if before in {"enrolled", "waitlisted"}:
                results.append({"course_id": course_id, "outcome": "unchanged", "status": before, "course": course})
                continue
            if (refusal := refuse(course_id, course, before, body.on_full)) is not None:
                errors.append(
                    {"pointer": f"#/course_ids/{body.course_ids.index(course_id)}", "course_id": course_id, **refusal}
                )
                results.append({"course_id": course_id, "outcome": "refused", "errors": [refusal]})
                continue
            result = {"course_id": course_id, "course": course}
            if course["capacity"] is None or course["seats_taken"] < course["capacity"]:
                course["seats_taken"] += 1
                result |= {"outcome": "enrolled"}
            else:
                course["waitlisted"] += 1
                result |= {"outcome": "waitlisted", "position": course["waitlisted"]}
            results.append(result)
            moves.append(Move(student_id, course_id, result["outcome"], before, result["outcome"]))
        if errors and body.mode == "atomic":
            detail = " ".join(["Nothing was changed.", *(error["detail"] for error in errors)])
            codes = {error["code"] for error in errors}
            if "unknown_course" in codes:
                raise Problem(422, "unknown_course", detail, errors)
            raise Problem(409, codes.pop() if len(codes) == 1 else "enrollment_refused", detail, errors)
        if moves:
            await save_moves(connection, request_id_of(request), moves, [courses[move.course_id] for move in moves])
    response.status_code = 201 if moves else 200
    return {"student_id": student_id, "results": results}


@app.delete("/students/{student_id}/courses/{course_id}")
async def drop(student_id: IdInPath, course_id: IdInPath, request: Request) -> schemas.DroppedCourse:
    """Drop a course, or leave its waitlist; the first waitlisted student gets the free seat at once."""
    async with request.state.pool.acquire() as connection, connection.transaction():
        courses = await connection.fetch(sql.LOCK_COURSES, [course_id])
        rows = await connection.fetch(sql.LOAD_STATUSES, student_id, [course_id])
        if not rows:
            raise no_student(student_id)
        mine = rows[0]
        if mine["status"] is None:
            raise Problem(404, "enrollment_not_found", f"Student {student_id} has never been enrolled in course {course_id}.")
        if mine["status"] == "completed":
            raise Problem(409, "already_completed", f"The student has completed course {course_id}; it is not dropped.")
        course, status, outcome = dict(courses[0]), mine["status"], "unchanged"
        if status in {"enrolled", "waitlisted"}:
            moves = [Move(student_id, course_id, "dropped", status, "dropped")]
            if status == "waitlisted":
                course["waitlisted"] -= 1
            else:
                course["seats_taken"] -= 1
                free = course["capacity"] is None or course["seats_taken"] < course["capacity"]
                promoted = (
                    await connection.fetchval(sql.LOAD_FIRST_WAITLISTED, course_id)
                    if free and course["waitlisted"]
                    else None
                )
                if promoted is not None:
                    course["seats_taken"] += 1
                    course["waitlisted"] -= 1
                    moves.append(Move(promoted, course_id, "promoted", "waitlisted", "enrolled"))
            await save_moves(connection, request_id_of(request), moves, [course])
            status = outcome = "dropped"
    return {
        "course_id": course_id,
        "status": status,
        "position": None,
        "joined_at": mine["joined_at"],
        "passed": None,
        "grade": None,
        "course": course,
        "outcome": outcome,
    }


def page(items: list[dict[str, Any]], limit: int, key: str) -> dict[str, Any]:
    """Return a page; ``items`` has one more item than ``limit`` if there is a next page."""
    return {"items": items[:limit], "next": str(items[limit - 1][key]) if len(items) > limit else None}


@app.get("/students/{student_id}/courses")
async def list_student_courses(
    student_id: IdInPath, request: Request, status: schemas.Status | None = None, limit: Limit = 50, cursor: Cursor = 0
) -> schemas.StudentCourses:
    """List the courses of a student, ordered by course id."""
    pool = request.state.pool
    statuses = ["enrolled", "waitlisted"] if status is None else [status]
    rows = await pool.fetch(sql.LIST_STUDENT_COURSES, student_id, statuses, cursor, limit + 1)
    if not rows and await pool.fetchrow(sql.GET_STUDENT, student_id) is None:
        raise no_student(student_id)
    items = [
        {
            "course_id": row["course_id"],
            "status": row["status"],
            "position": row["position"],
            "joined_at": row["joined_at"],
            "passed": row["passed"],
            "grade": row["grade"],
            "course": {
                "id": row["course_id"],
                "external_id": row["external_id"],
                "code": row["code"],
                "title": row["title"],
                "credits": row["credits"],
                "term_id": row["term_id"],
            },
        }
        for row in rows
    ]
    return page(items, limit, "course_id")


@app.get("/courses/{course_id}/students")
async def list_course_students(
    course_id: IdInPath, request: Request, status: schemas.Status = "enrolled", limit: Limit = 50, cursor: Cursor = 0
) -> schemas.CourseStudents:
    """List the students of a course, ordered by student id, or by position if waitlisted."""
    pool = request.state.pool
    waiting = status == "waitlisted"
    if waiting:
        rows = await pool.fetch(sql.LIST_WAITLIST, course_id, cursor, limit + 1)
    else:
        rows = await pool.fetch(sql.LIST_COURSE_STUDENTS, course_id, status, cursor, limit + 1)
    if not rows and await pool.fetchrow(sql.GET_COURSE, course_id) is None:
        raise no_course(course_id)
    items = [
        {**row, "position": number if waiting else None, "student": {"id": row["student_id"], **row}}
        for number, row in enumerate(rows, cursor + 1)
    ]
    return page(items, limit, "position" if waiting else "student_id")


@app.get("/students/{student_id}")
async def read_student(student_id: IdInPath, request: Request) -> schemas.Student:
    """Return a student."""
    row = await request.state.pool.fetchrow(sql.GET_STUDENT, student_id)
    if row is None:
        raise no_student(student_id)
    return dict(row)


@app.get("/courses/{course_id}")
async def read_course(course_id: IdInPath, request: Request) -> schemas.Course:
    """Return a course with its seats."""
    row = await request.state.pool.fetchrow(sql.GET_COURSE, course_id)
    if row is None:
        raise no_course(course_id)
    return dict(row)


@app.get("/courses")
async def list_courses(request: Request, limit: Limit = 50, cursor: Cursor = 0) -> schemas.Courses:
    """List courses, ordered by id."""
    rows = await request.state.pool.fetch(sql.LIST_COURSES, cursor, limit + 1)
    return page([dict(row) for row in rows], limit, "id")


@app.get("/health/ready")
async def ready(request: Request) -> dict[str, str]:
    """Return that the service is ready."""
    await request.state.pool.execute("SELECT 1")
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
