"""The overviews of a student and of a term: what an advisor and a registrar look at first, in one call."""

from dataclasses import dataclass
from datetime import date
from typing import Annotated, Final

from pydantic import Field, TypeAdapter

from service.api.answers import TermId
from service.api.courses import Course, course_of
from service.api.enrollment_types import ACTIVE, StudentCourse, Sum
from service.api.enrollments import explained
from service.api.fields import IdInPath
from service.api.holds import Hold, hold_of
from service.api.keys import DATABASE
from service.api.overrides import Override, override_of
from service.api.refusals import NEWEST, RefusedCourse, write_refusal
from service.api.students import Student, student_of
from service.api.terms import Term, term_of
from service.errors import StudentNotFound, TermNotFound
from service.web.endpoint import Call, Written, endpoint
from sql.courses import load_courses
from sql.enrollments import CoursesAsked, list_courses_of_students, list_credits_of_student
from sql.feed import get_now
from sql.holds import load_holds
from sql.overrides import load_overrides
from sql.refusals import list_refusals_of_student
from sql.students import get_student
from sql.terms import get_term, list_waitlisted_courses, sum_up_courses

MAX_ITEMS: Final = 500
"""The items of each list: more than any student has, and as many as a page of the complete lists."""
MAX_REFUSALS: Final = 20
"""The newest refusals: those of the last few tries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TermCredits:
    """The credits of a student in one term, and the limit."""

    term_id: TermId
    code: Annotated[str, Field(description="The code of the term.")]
    name: Annotated[str, Field(description="The name of the term.")]
    starts_on: Annotated[date, Field(description="The first day of the term.")]
    ends_on: Annotated[date, Field(description="The last day of the term.")]
    credits: Annotated[Sum, Field(description="The credits of the courses in which the student has a seat.")]
    waitlisted_credits: Annotated[Sum, Field(description="The credits of the courses that the student waits for.")]
    max_credits: Annotated[
        Sum | None,
        Field(description="The limit for the student: the student's own, or else the term's; null is unlimited."),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """A student with the current courses, credits, holds, overrides and refusals, all of the same instant."""

    student: Student
    courses: Annotated[
        list[StudentCourse], Field(description="The courses in which the student is enrolled or waitlisted, by id.")
    ]
    terms: Annotated[
        list[TermCredits],
        Field(description="The terms in which the student has a seat or waits for one, the earliest first."),
    ]
    holds: Annotated[list[Hold], Field(description="The holds that have not ended, by id.")]
    overrides: Annotated[list[Override], Field(description="The overrides that can still be used, by id.")]
    refusals: Annotated[list[RefusedCourse], Field(description="The newest refusals, at most 20, the newest first.")]


STUDENT: Final = TypeAdapter(Student)
TERMS: Final = TypeAdapter(list[TermCredits])
HOLDS: Final = TypeAdapter(list[Hold])
OVERRIDES: Final = TypeAdapter(list[Override])


@endpoint("GET", "/students/{student_id}/overview", scope="read", problems=[StudentNotFound])
async def read_overview(call: Call, student_id: IdInPath) -> Written[Overview]:
    """Read a student with the current courses, credits, holds, overrides and refusals.

    All of it is of the same instant. Each list has at most 500 items; the calls of the lists return the others. A caller
    with the scope `self` can read the overview of its own student.
    """
    asked = CoursesAsked(student_id, " ".join(ACTIVE), 0, MAX_ITEMS)
    async with call[DATABASE].viewing() as connection:
        student = await get_student(connection, student_id)
        if student is None:
            raise StudentNotFound(student_id)
        [page] = await list_courses_of_students(connection, [asked])
        now = await get_now(connection)
        credits = await list_credits_of_student(connection, student_id, MAX_ITEMS)
        holds = await load_holds(connection, [student_id], now)
        overrides = await load_overrides(connection, [student_id], now)
        refusals = await list_refusals_of_student(connection, student_id, NEWEST, MAX_REFUSALS)
    terms = [
        TermCredits(
            term_id=row.term_id,
            code=row.code,
            name=row.name,
            starts_on=row.starts_on,
            ends_on=row.ends_on,
            credits=row.credits,
            waitlisted_credits=row.waitlisted_credits,
            max_credits=row.max_credits if student.max_credits is None else student.max_credits,
        )
        for row in credits
    ]
    members = {
        "student": STUDENT.dump_json(student_of(student)).decode(),
        "courses": explained(page).items or "[]",
        "terms": TERMS.dump_json(terms).decode(),
        "holds": HOLDS.dump_json([hold_of(row) for row in holds[:MAX_ITEMS]]).decode(),
        "overrides": OVERRIDES.dump_json([override_of(row) for row in overrides[:MAX_ITEMS]]).decode(),
        "refusals": f"[{','.join([write_refusal(row) for row in refusals])}]",
    }
    written = ",".join([f'"{name}":{json}' for name, json in members.items()])
    return Written(f"{{{written}}}")


MAX_WAITLISTED_COURSES: Final = 20
"""The courses of each list of a term's overview; more of them are no longer an overview."""

Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TermOverview:
    """A term with the number of its courses, seats and waitlisted students, all of the same instant.

    A cancelled course counts only in `cancelled`.
    """

    term: Term
    courses: Annotated[Count, Field(description="Number of open courses.")]
    cancelled: Annotated[Count, Field(description="Number of cancelled courses.")]
    unlimited: Annotated[Count, Field(description="Number of open courses without a limit of seats.")]
    seats: Annotated[Count, Field(description="Number of seats of the other open courses.")]
    seats_taken: Annotated[Count, Field(description="Number of seats taken in all open courses.")]
    seats_free: Annotated[Count, Field(description="Number of free seats in courses with a limit.")]
    waitlisted: Annotated[Count, Field(description="Number of waitlist places that students have.")]
    waitlisted_courses: Annotated[Count, Field(description="Number of courses with a waitlisted student.")]
    fill: Annotated[
        list[Count],
        Field(
            description="Number of open courses with less than a tenth of their seats taken, with at least one and less "
            "than two tenths, and so on: 11 numbers, of which the last one is that of full courses."
        ),
    ]
    longest_waitlists: Annotated[
        list[Course], Field(description="The courses with the most waitlisted students, at most 20, the most first.")
    ]
    blocked_waitlists: Annotated[
        list[Course],
        Field(
            description="Courses with free seats and waitlisted students, all of whom are passed over: at most 20, that "
            "with the most students first. Their waitlists show why."
        ),
    ]


@endpoint("GET", "/terms/{term_id}/overview", scope="read", problems=[TermNotFound])
async def read_term_overview(call: Call, term_id: IdInPath) -> TermOverview:
    """Read how full the courses of a term are, and which waitlists are long or do not move.

    All of it is of the same instant. The courses of the parts of a term are in the overviews of the parts.
    """
    async with call[DATABASE].viewing() as connection:
        term = await get_term(connection, term_id)
        if term is None:
            raise TermNotFound(term_id)
        rows = await sum_up_courses(connection, term_id)
        longest = await list_waitlisted_courses(connection, term_id, False, MAX_WAITLISTED_COURSES)
        blocked = await list_waitlisted_courses(connection, term_id, True, MAX_WAITLISTED_COURSES)
        courses = {row.id: course_of(row) for row in await load_courses(connection, [*longest, *blocked])}
    opened = [row for row in rows if row.is_open]
    by_tenth = {row.tenth: row.courses for row in opened}
    return TermOverview(
        term=term_of(term),
        courses=sum(row.courses for row in opened),
        cancelled=sum(row.courses for row in rows if not row.is_open),
        unlimited=by_tenth.get(None, 0),
        seats=sum(row.seats for row in opened),
        seats_taken=sum(row.seats_taken for row in opened),
        seats_free=sum(row.seats_free for row in opened),
        waitlisted=sum(row.waitlisted for row in opened),
        waitlisted_courses=sum(row.waitlisted_courses for row in opened),
        fill=[by_tenth.get(tenth, 0) for tenth in range(11)],
        longest_waitlists=[courses[id] for id in longest],
        blocked_waitlists=[courses[id] for id in blocked],
    )
