"""Enrollments: what callers send and see of them, and the handlers."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, NotRequired, cast

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from service.errors import CourseNotFound, EnrollmentRefused, NotEnrolled, StudentNotFound, UnknownCourses
from service.keys import DATABASE, REGISTRAR
from service.registrar.changes import Drop, Enroll, Mode, Origin, Refusal, Result
from service.registrar.rules import sentence
from service.values import Credits, IdInBody, IdInPath, Input, Name
from service.web.endpoint import Call, Reply, endpoint
from service.web.paging import Page, Paging, decode_cursor, page_of
from sql.courses import Course, get_course
from sql.enrollments import Status, list_courses_of_student, list_students_of_course
from sql.students import get_student


class EnrollmentRequest(Input):
    """Which courses a student is to be enrolled in."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"course_ids": [1, 2], "mode": "atomic"}]})

    course_ids: Annotated[
        list[IdInBody], Field(min_length=1, max_length=100, description="An id that stands twice counts once.")
    ]
    mode: Annotated[
        Mode, Field(description="atomic: all of them or nothing. partial: each that can be had, in the order asked.")
    ] = "atomic"


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseInfo:
    """What a reader of an enrollment wants to know of its course."""

    id: int
    code: str
    title: str
    credits: Credits


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentInfo:
    """What a reader of a roster wants to know of a student."""

    id: int
    given_name: str
    family_name: str
    email: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """The student has got a seat."""

    course_id: int
    outcome: Literal["enrolled"] = "enrolled"
    course: CourseInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchanged:
    """The student was in the course already."""

    course_id: int
    outcome: Literal["unchanged"] = "unchanged"
    status: Status
    course: CourseInfo


class Reason(TypedDict):
    """One reason of a refusal: the code of a rule, and the numbers that the rule tells."""

    code: str
    capacity: NotRequired[int]
    seats_taken: NotRequired[int]
    detail: Annotated[str, Field(description="A sentence for people.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The student does not get the course, for every reason listed."""

    course_id: int
    outcome: Literal["refused"] = "refused"
    errors: list[Reason]


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrollments:
    """What became of each course, in the order asked."""

    student_id: int
    results: list[Annotated[Enrolled | Unchanged | Refused, Field(discriminator="outcome")]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentCourse:
    """A course as one of a student's."""

    course_id: int
    status: Status
    joined_at: datetime
    course: CourseInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedCourse(StudentCourse):
    """A student's course after a drop."""

    outcome: Annotated[Literal["dropped", "unchanged"], Field(description="unchanged: it was dropped already.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseStudent:
    """A student as one of a course's."""

    student_id: int
    status: Status
    joined_at: datetime
    student: StudentInfo


class StudentCoursesQuery(Paging):
    """A page of a student's courses."""

    status: Annotated[Status, Field(description="Only courses in this status.")] = "enrolled"


class DropQuery(BaseModel):
    """Why a course is dropped."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: Annotated[Name | None, Field(description="Told by the event.")] = None


class CourseStudentsQuery(Paging):
    """A page of a course's students."""

    status: Annotated[Status, Field(description="Only students in this status.")] = "enrolled"


@endpoint(
    "POST",
    "/students/{student_id}/enroll",
    status=(201, 200),
    problems=[StudentNotFound, EnrollmentRefused, UnknownCourses],
)
async def enroll_student(call: Call, student_id: IdInPath, body: EnrollmentRequest) -> Reply[Enrollments]:
    """Enroll a student in courses.

    201 when the student got a seat in any of them, 200 when nothing changed. A course that the student is in already
    is `unchanged`: repeating the call is safe. In mode `atomic` one refusal refuses all, and `errors` lists every
    reason for every course; in mode `partial` each course has a result of its own.
    """
    results = await call[REGISTRAR].submit(
        Enroll(
            origin=Origin(call.request_id, call.actor),
            student_id=student_id,
            course_ids=tuple(body.course_ids),
            mode=body.mode,
        )
    )
    created = any(result.outcome == "enrolled" for result in results)
    return Reply(
        Enrollments(student_id=student_id, results=[_result(result) for result in results]), 201 if created else 200
    )


@endpoint("GET", "/students/{student_id}/courses", problems=[StudentNotFound])
async def list_student_courses(call: Call, student_id: IdInPath, query: StudentCoursesQuery) -> Page[StudentCourse]:
    """List a student's courses by course id."""
    of = f"courses of {student_id} {query.status}"
    after = decode_cursor(query.cursor, of)
    async with call[DATABASE].reading() as connection:
        rows = await list_courses_of_student(connection, student_id, [query.status], after, query.limit + 1)
        if not rows and await get_student(connection, student_id) is None:
            raise StudentNotFound(student_id)
    items = [
        StudentCourse(
            course_id=row.course_id,
            status=row.status,
            joined_at=row.joined_at,
            course=CourseInfo(id=row.course_id, code=row.code, title=row.title, credits=row.credits),
        )
        for row in rows
    ]
    return page_of(items, query.limit, of, lambda item: item.course_id)


@endpoint(
    "DELETE",
    "/students/{student_id}/courses/{course_id}",
    problems=[StudentNotFound, NotEnrolled],
)
async def drop_course(call: Call, student_id: IdInPath, course_id: IdInPath, query: DropQuery) -> DroppedCourse:
    """Drop a student's course; the seat is free for the next one at once.

    Dropping what is dropped already is `unchanged`: repeating the call is safe.
    """
    dropped = await call[REGISTRAR].submit(
        Drop(origin=Origin(call.request_id, call.actor, query.reason), student_id=student_id, course_id=course_id)
    )
    return DroppedCourse(
        course_id=course_id,
        status=dropped.enrollment.status,
        joined_at=dropped.enrollment.joined_at,
        course=_info(dropped.course),
        outcome=dropped.outcome,
    )


@endpoint("GET", "/courses/{course_id}/students", problems=[CourseNotFound])
async def list_course_students(call: Call, course_id: IdInPath, query: CourseStudentsQuery) -> Page[CourseStudent]:
    """List a course's students by student id: its roster."""
    of = f"students of {course_id} {query.status}"
    after = decode_cursor(query.cursor, of)
    async with call[DATABASE].reading() as connection:
        rows = await list_students_of_course(connection, course_id, query.status, after, query.limit + 1)
        if not rows and await get_course(connection, course_id) is None:
            raise CourseNotFound(course_id)
    items = [
        CourseStudent(
            student_id=row.student_id,
            status=row.status,
            joined_at=row.joined_at,
            student=StudentInfo(
                id=row.student_id, given_name=row.given_name, family_name=row.family_name, email=row.email
            ),
        )
        for row in rows
    ]
    return page_of(items, query.limit, of, lambda item: item.student_id)


def _result(result: Result) -> Enrolled | Unchanged | Refused:
    if result.course is None or result.outcome == "refused":
        return Refused(course_id=result.course_id, errors=[_reason(refusal) for refusal in result.refusals])
    if result.outcome == "unchanged" and result.status is not None:
        return Unchanged(course_id=result.course_id, status=result.status, course=_info(result.course))
    return Enrolled(course_id=result.course_id, course=_info(result.course))


def _reason(refusal: Refusal) -> Reason:
    return cast(Reason, {"code": refusal.code, **refusal.params, "detail": sentence(refusal)})


def _info(course: Course) -> CourseInfo:
    return CourseInfo(id=course.id, code=course.code, title=course.title, credits=course.credits)
