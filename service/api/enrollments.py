"""Enrollments: what callers send and see of them, and the handlers."""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Literal, NotRequired, Self, TypeAlias, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    PlainSerializer,
    TypeAdapter,
    WithJsonSchema,
    model_validator,
    with_config,
)
from typing_extensions import TypeAliasType, TypedDict

from service.api.answers import CourseId, Id, StudentId, TermId
from service.api.fields import Credits, Grade, IdInBody, IdInPath, Input, ReasonQuery, Truth
from service.api.keys import COURSES_OF_STUDENTS, DATABASE, REGISTRAR, STUDENTS_OF_COURSES, origin_of
from service.errors import (
    AlreadyCompleted,
    CourseNotFound,
    DomainError,
    DropRefused,
    EnrollmentNotFound,
    EnrollmentRefused,
    NotEnrolled,
    StudentNotFound,
    UnknownCourse,
)
from service.registrar import application
from service.registrar.application import OnFull
from service.registrar.changes import Moved, Result
from service.registrar.enrollments import Complete, Drop, Enroll, KeepDrops, Mode, Swap
from service.registrar.moves import swap_drops_of
from service.registrar.rules import SENTENCES, number, sentence
from service.web.endpoint import Call, Reply, Written, endpoint
from service.web.paging import Paging, WrittenPage, decode_cursor, written_page
from service.web.problems import InternalError, Problem, problem_of
from service.web.schema import named
from service.web.validation import wrong
from sql import Connection, JsonPage
from sql import enrollments as sql
from sql.courses import Course, get_course, load_courses
from sql.enrollments import CoursesAsked, Status, StudentsAsked
from sql.students import load_students
from sql.waitlist import list_waitlist

logger = logging.getLogger(__name__)

CourseIds = Annotated[list[IdInBody], Field(min_length=1, max_length=100, description="Duplicate ids are ignored.")]
OnFullField = Annotated[
    OnFull, named("OnFull", "What to do if no seat is free: `fail`, or `waitlist` the student for the course.")
]


NamedStatus: TypeAlias = Annotated[
    Status,
    named(
        "Status",
        "What a student is in a course. Those `enrolled` and `completed` have a seat. `dropped` and `withdrawn` have left: "
        "the first before the term's `drop_until`, the second after it.",
    ),
]


class EnrollmentRequest(Input):
    """Which courses a student is to be enrolled in."""

    course_ids: CourseIds
    mode: Annotated[
        Mode,
        named("Mode", "`atomic`: all courses or none. `partial`: each available course, in the order of the request."),
    ] = "atomic"
    on_full: OnFullField = "fail"


class SwapRequest(Input):
    """Which courses a student leaves for which others. `on_full: waitlist` takes exactly one to add."""

    drop: CourseIds
    add: CourseIds
    on_full: OnFullField = "fail"

    @model_validator(mode="after")
    def check_courses(self) -> Self:
        """Refuse what can't be meant."""
        if set(self.drop) & set(self.add):
            raise wrong("swap_with_itself", "drop and add must not contain the same course.")
        if self.on_full == "waitlist" and len(set(self.add)) > 1:
            raise wrong("too_many_adds", "add must contain exactly one id if on_full is waitlist.")
        return self


class CompletionRequest(Input):
    """How a student has completed a course."""

    passed: Annotated[
        bool, Field(description="Whether the student has passed it; only then it counts for prerequisites.")
    ]
    grade: Annotated[Grade | None, Field(description="As the institution writes it.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseInfo:
    """What a reader of an enrollment wants to know of its course."""

    id: Id
    code: Annotated[str, Field(description="As in the catalogue.")]
    title: Annotated[str, Field(description="As people call it.")]
    credits: Credits
    term_id: Annotated[TermId | None, Field(description="Null if the course is in no term.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentInfo:
    """What a reader of a roster wants to know of a student."""

    id: Id
    given_name: Annotated[str, Field(description="The given name or names.")]
    family_name: Annotated[str, Field(description="The family name or names.")]
    email: Annotated[str, Field(description="The e-mail address.")]


Position = Annotated[int | None, Field(description="The waitlist position counted from 1; null if not waitlisted.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """The student has a seat now."""

    course_id: CourseId
    outcome: Annotated[Literal["enrolled"], Field(description="Which kind of result it is.")] = "enrolled"
    course: CourseInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchanged:
    """The student was in the course already, or waitlisted for it."""

    course_id: CourseId
    outcome: Annotated[Literal["unchanged"], Field(description="Which kind of result it is.")] = "unchanged"
    status: NamedStatus
    position: Position
    course: CourseInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Waitlisted:
    """The student is waitlisted now."""

    course_id: CourseId
    outcome: Annotated[Literal["waitlisted"], Field(description="Which kind of result it is.")] = "waitlisted"
    position: Annotated[int, Field(description="The waitlist position, counted from 1.")]
    course: CourseInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What became of a course to drop: one that is `kept` is dropped once the student gets the seat of the add."""

    course_id: CourseId
    outcome: Annotated[
        Literal["dropped", "withdrawn", "kept"],
        named(
            "LeftOutcome", "What became of a course to drop: `kept` is dropped once the student gets the other seat."
        ),
    ]
    course: CourseInfo


Timestamp = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
Sum = Annotated[float, PlainSerializer(number), WithJsonSchema({"type": "number"})]
"""A sum of credits, without a fraction where it is whole."""


RefusalCode: TypeAlias = Annotated[
    str, named("RefusalCode", "The rule that refuses; docs/rules.md explains each.", enum=[*SENTENCES])
]


@with_config(ConfigDict(extra="ignore"))
class Blocker(TypedDict):
    """One reason why a waitlisted student was passed over: the code of a rule, and its parameters."""

    code: RefusalCode
    opens_at: NotRequired[Annotated[Timestamp, Field(description="When enrollment opens.")]]
    closed_at: NotRequired[Annotated[Timestamp, Field(description="When enrolling, or dropping, closed.")]]
    any_of: NotRequired[Annotated[list[str], Field(description="The codes of the courses of which one is required.")]]
    course_code: NotRequired[Annotated[str, Field(description="The code of the course that excludes this one.")]]
    with_course_id: NotRequired[Annotated[CourseId, Field(description="The course that meets at the same time.")]]
    held: NotRequired[Annotated[Sum, Field(description="The credits that the student has in the term.")]]
    asked: NotRequired[Annotated[Sum, Field(description="The credits that the request adds to them.")]]
    capacity: NotRequired[Annotated[int, Field(description="The seats of the course.")]]
    seats_taken: NotRequired[Annotated[int, Field(description="The seats that are taken.")]]
    waitlist_capacity: NotRequired[Annotated[int, Field(description="The places of the waitlist.")]]


class Refusal(Blocker):
    """One reason of a refusal: the code of a rule, its parameters and a sentence."""

    reason: NotRequired[Annotated[str, Field(description="The reason of the hold.")]]
    limit: NotRequired[Annotated[Sum, Field(description="The most credits that the student may have in the term.")]]
    detail: Annotated[str, Field(description="Human-readable message.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The student does not get the course, for every reason listed."""

    course_id: CourseId
    outcome: Annotated[Literal["refused"], Field(description="Which kind of result it is.")] = "refused"
    errors: Annotated[list[Refusal], Field(description="Every reason.")]


AnyResult: TypeAlias = Enrolled | Waitlisted | Unchanged | Left | Refused
EnrollmentResult = TypeAliasType(
    "EnrollmentResult",
    Annotated[AnyResult, Field(discriminator="outcome", description="What became of one course of the request.")],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrollments:
    """What became of each course, in the order asked."""

    student_id: StudentId
    results: Annotated[list[EnrollmentResult], Field(description="In the order of the request; a course only once.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview(Enrollments):
    """What would become of each course; nothing was changed."""

    dry_run: Annotated[Literal[True], Field(description="Always true: nothing was changed.")] = True


BlockedBy = Annotated[
    list[Blocker] | None,
    Field(
        description="Every reason why the student is passed over when a seat becomes free; "
        "null if the student is not waitlisted or not passed over."
    ),
]


SwapDrops = Annotated[
    list[int] | None,
    Field(
        description="The courses that the student drops on getting a seat in this one, by a swap; null if there are none."
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentCourse:
    """A course as one of a student's."""

    course_id: CourseId
    status: NamedStatus
    position: Position
    blocked_by: BlockedBy
    swap_drops: SwapDrops
    swap_adds: Annotated[
        list[int] | None,
        Field(
            description="The waitlisted courses of swaps for which the student drops this one; null if there are none."
        ),
    ]
    joined_at: Annotated[datetime, Field(description="When the student got the seat or the waitlist place.")]
    passed: Annotated[bool | None, Field(description="Null until the course is completed.")]
    grade: Annotated[str | None, Field(description="As the institution writes it; null if there is none.")]
    course: CourseInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedCourse(StudentCourse):
    """A student's course after a drop or a completion."""

    outcome: Annotated[
        Literal["dropped", "withdrawn", "completed", "kept", "unchanged"],
        named("MovedOutcome", "What became of the course; `unchanged`: it was so already."),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseStudent:
    """A student as one of a course's."""

    student_id: StudentId
    status: NamedStatus
    position: Position
    blocked_by: BlockedBy
    swap_drops: SwapDrops
    joined_at: Annotated[datetime, Field(description="When the student got the seat or the waitlist place.")]
    student: StudentInfo


class DryRun(BaseModel):
    """Whether only to ask."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dry_run: Annotated[
        bool, Truth, Field(description="If true, return what the call would answer, and change nothing.")
    ] = False


class StudentCoursesQuery(Paging):
    """A page of a student's courses."""

    status: Annotated[
        NamedStatus | None, Field(description="Only courses in this status; by default those enrolled and waitlisted.")
    ] = None


class CourseStudentsQuery(Paging):
    """A page of a course's students."""

    status: Annotated[
        NamedStatus,
        Field(description="Only students in this status; those waitlisted come in the order of the waitlist."),
    ] = "enrolled"


@endpoint(
    "POST",
    "/students/{student_id}/enroll",
    scope="enroll",
    status=(201, 200),
    problems=[StudentNotFound, EnrollmentRefused, UnknownCourse],
)
async def enroll_student(
    call: Call, student_id: IdInPath, query: DryRun, body: EnrollmentRequest
) -> Reply[Written[Preview | Enrollments]]:
    """Enroll a student in courses.

    The status is 201 if the student got a seat or a waitlist place in any of them, and 200 if nothing changed. A course
    in which the student is enrolled or waitlisted already is `unchanged`: repeating the call is safe. In mode `atomic`
    one refusal refuses all, and `errors` lists every reason for every course; in mode `partial` each course has a result
    of its own.
    """
    return await _answer(call, enrollment(call, student_id, body), dry_run=query.dry_run)


def enrollment(call: Call, student_id: int, body: EnrollmentRequest) -> Enroll:
    """Make a change of a request."""
    return Enroll(
        origin=origin_of(call),
        student_id=student_id,
        course_ids=tuple(body.course_ids),
        mode=body.mode,
        on_full=body.on_full,
    )


async def _answer(call: Call, change: Enroll | Swap, *, dry_run: bool) -> Reply[Written[Preview | Enrollments]]:
    """Make a change, or only ask what it would answer."""
    results = await (call[REGISTRAR].preview(change) if dry_run else call[REGISTRAR].submit(change))
    answer: Written[Preview | Enrollments] = Written(_enrollments(change.student_id, results, dry_run=dry_run))
    return Reply(answer, 201 if created(results) and not dry_run else 200)


def _enrollments(student_id: int, results: Iterable[Result], *, dry_run: bool = False) -> str:
    """Write what became of each course, as ``Enrollments``, or what would, as ``Preview``."""
    told = ",".join([_result(result) for result in results])
    more = ',"dry_run":true' if dry_run else ""
    return f'{{"student_id":{student_id},"results":[{told}]{more}}}'


def created(results: Sequence[Result]) -> bool:
    """Tell whether the student got anything."""
    return any(result.outcome in {"enrolled", "waitlisted"} for result in results)


@endpoint(
    "POST",
    "/students/{student_id}/swap",
    scope="enroll",
    status=(201, 200),
    problems=[StudentNotFound, EnrollmentRefused, UnknownCourse],
    final=True,
)
async def swap_courses(
    call: Call, student_id: IdInPath, query: DryRun, body: SwapRequest
) -> Reply[Written[Preview | Enrollments]]:
    """Drop courses and enroll in others, all or nothing.

    The adds are judged as if the drops were made already, so that their time and credits are free. If the student is only
    waitlisted for the add, the drops are `kept`: they are made in the transaction that gives the student the seat.
    """
    change = Swap(
        origin=origin_of(call),
        student_id=student_id,
        drop=tuple(body.drop),
        add=tuple(body.add),
        on_full=body.on_full,
    )
    return await _answer(call, change, dry_run=query.dry_run)


@endpoint("GET", "/students/{student_id}/courses", scope="read", problems=[StudentNotFound])
async def list_student_courses(
    call: Call, student_id: IdInPath, query: StudentCoursesQuery
) -> WrittenPage[StudentCourse]:
    """List a student's courses by course id.

    By default those in which the student is enrolled or waitlisted, with `status` those in one status.
    """
    of = f"courses of {student_id} {query.status or 'enrolled waitlisted'}"
    after = decode_cursor(query.cursor, of)
    page = await call[COURSES_OF_STUDENTS].submit(CoursesAsked(student_id, query.status, after, query.limit), call.gone)
    if page is None:
        raise StudentNotFound(student_id)
    return written_page(page.items, page.next_after, of)


async def find_courses(connection: Connection, asked: list[CoursesAsked]) -> dict[CoursesAsked, JsonPage]:
    """Read pages of students' courses; there is none of a student who does not exist."""
    found = {asked[page.number - 1]: page for page in await sql.list_courses_of_students(connection, asked)}
    if empty := [each for each, page in found.items() if page.items is None]:
        there = {student.id for student in await load_students(connection, [each.student_id for each in empty])}
        for each in empty:
            if each.student_id not in there:
                del found[each]
    return found


@endpoint(
    "DELETE",
    "/students/{student_id}/courses/{course_id}",
    scope="enroll",
    problems=[StudentNotFound, EnrollmentNotFound, AlreadyCompleted, DropRefused],
)
async def drop_course(call: Call, student_id: IdInPath, course_id: IdInPath, query: ReasonQuery) -> MovedCourse:
    """Drop a student's course, or leave its waitlist.

    The first eligible student on the waitlist gets the seat in the same transaction. From the term's `drop_until` on, the
    drop is a withdrawal. A course that is dropped already is `unchanged`: repeating the call is safe.
    """
    change = Drop(origin=origin_of(call, query.reason), student_id=student_id, course_id=course_id)
    return _moved(await call[REGISTRAR].submit(change))


@endpoint("DELETE", "/students/{student_id}/courses/{course_id}/swap", scope="enroll", problems=[StudentNotFound, EnrollmentNotFound])
async def keep_drops(call: Call, student_id: IdInPath, course_id: IdInPath) -> MovedCourse:
    """Keep the courses that a swap would drop for this one; the student stays on its waitlist.

    Where nothing would be dropped it is `unchanged`: repeating is safe.
    """
    change = KeepDrops(origin=origin_of(call), student_id=student_id, course_id=course_id)
    return _moved(await call[REGISTRAR].submit(change))


@endpoint(
    "POST",
    "/students/{student_id}/courses/{course_id}/complete",
    scope="manage",
    problems=[StudentNotFound, CourseNotFound, NotEnrolled],
    final=True,
)
async def complete_course(
    call: Call, student_id: IdInPath, course_id: IdInPath, body: CompletionRequest
) -> MovedCourse:
    """Record that a student has completed a course, or correct the record.

    The student must be enrolled in the course, or have completed it already. A completed course keeps its seat.
    """
    change = Complete(
        origin=origin_of(call),
        student_id=student_id,
        course_id=course_id,
        passed=body.passed,
        grade=body.grade,
    )
    return _moved(await call[REGISTRAR].submit(change))


def _moved(moved: Moved) -> MovedCourse:
    row = moved.enrollment
    return MovedCourse(
        course_id=row.course_id,
        status=row.status,
        position=moved.position,
        blocked_by=None if row.recheck_at is None or row.blocked_reasons is None else json.loads(row.blocked_reasons),
        swap_drops=swap_drops_of(row) or None,
        swap_adds=list(moved.swap_adds) or None,
        joined_at=row.joined_at,
        passed=row.passed,
        grade=row.grade,
        course=_info(moved.course),
        outcome=moved.outcome,
    )


@endpoint("GET", "/courses/{course_id}/students", scope="read", problems=[CourseNotFound])
async def list_course_students(
    call: Call, course_id: IdInPath, query: CourseStudentsQuery
) -> WrittenPage[CourseStudent]:
    """List a course's students by student id, or its waitlist in order.

    By default those who are enrolled, with `status` those in one status.
    """
    of = f"students of {course_id} {query.status}"
    after = decode_cursor(query.cursor, of)
    page: JsonPage | None
    if query.status == "waitlisted":
        async with call[DATABASE].reading() as connection:
            [page] = await list_waitlist(connection, course_id, after, query.limit)
            if page.items is None and await get_course(connection, course_id) is None:
                raise CourseNotFound(course_id)
    else:
        asked = StudentsAsked(course_id, query.status, after, query.limit)
        page = await call[STUDENTS_OF_COURSES].submit(asked, call.gone)
        if page is None:
            raise CourseNotFound(course_id)
    return written_page(page.items, page.next_after, of)


async def find_students(connection: Connection, asked: list[StudentsAsked]) -> dict[StudentsAsked, JsonPage]:
    """Read pages of courses' students; there is none of a course that does not exist."""
    found = {asked[page.number - 1]: page for page in await sql.list_students_of_courses(connection, asked)}
    if empty := [each for each, page in found.items() if page.items is None]:
        there = {course.id for course in await load_courses(connection, [each.course_id for each in empty])}
        for each in empty:
            if each.course_id not in there:
                del found[each]
    return found


def _result(result: Result) -> str:
    """Write what became of one course."""
    course = result.course
    if course is None or result.outcome == "refused":
        return _json(Refused(course_id=result.course_id, errors=[refusal_of(refusal) for refusal in result.refusals]))
    if result.outcome == "waitlisted":
        assert result.position is not None
        return _json(Waitlisted(course_id=course.id, position=result.position, course=_info(course)))
    shown = course.id, course.code, course.title, course.credits, course.term_id
    return _common_result(result.outcome, result.status, result.position, shown)


@lru_cache(maxsize=16_384)
def _common_result(
    outcome: Literal["enrolled", "unchanged", "dropped", "withdrawn", "kept"],
    status: Status | None,
    position: int | None,
    shown: tuple[int, str, str, float, int | None],
) -> str:
    """Write what is the same for everyone who asks for a course."""
    course_id, code, title, credits, term_id = shown
    info = CourseInfo(id=course_id, code=code, title=title, credits=credits, term_id=term_id)
    if outcome == "enrolled":
        return _json(Enrolled(course_id=course_id, course=info))
    if outcome == "unchanged":
        assert status is not None
        return _json(Unchanged(course_id=course_id, status=status, position=position, course=info))
    return _json(Left(course_id=course_id, outcome=outcome, course=info))


def _json(result: AnyResult) -> str:
    return RESULT.dump_json(result).decode()


RESULT: TypeAdapter[AnyResult] = TypeAdapter(EnrollmentResult)


def refusal_of(refusal: application.Refusal) -> Refusal:
    """Return a refusal as the API shows it."""
    return cast(Refusal, {"code": refusal.code, **refusal.params, "detail": sentence(refusal)})


def _info(course: Course) -> CourseInfo:
    return CourseInfo(
        id=course.id, code=course.code, title=course.title, credits=course.credits, term_id=course.term_id
    )


class BulkItem(EnrollmentRequest):
    """One student's request of many."""

    student_id: Annotated[IdInBody, Field(description="The id of the student.")]
    course_ids: Annotated[CourseIds, FailFast()]
    """Of each item only the first invalid id is an error: 1,000 items may have 100,000 of them."""


class BulkRequest(Input):
    """Up to 1,000 requests, and up to 2,000 courses in them."""

    items: Annotated[
        list[BulkItem], Field(min_length=1, max_length=1000, description="Requests, which are made in this order.")
    ]

    @model_validator(mode="after")
    def check_size(self) -> Self:
        """Refuse more pairs than one transaction takes."""
        if sum(len(set(item.course_ids)) for item in self.items) > BULK_PAIRS:
            raise wrong("too_many_pairs", f"items must contain at most {BULK_PAIRS:,} course ids in all.")
        return self


BULK_PAIRS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkOutcome:
    """What became of one item: the status and the body that the call alone would have had."""

    status: Annotated[int, Field(description="The status that the request alone would have had.")]
    body: Annotated[Enrollments | Problem, Field(description="The body that the request alone would have had.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkOutcomes:
    """What became of each item, in the order asked."""

    items: Annotated[list[BulkOutcome], Field(description="One for each request, in the same order.")]


@endpoint("POST", "/enrollments", scope="enroll")
async def enroll_many(call: Call, body: BulkRequest) -> Written[BulkOutcomes]:
    """Enroll many students in one transaction, each for itself.

    The items are judged in their order, each after those before it; a refused one leaves the others as they are. If the
    transaction as a whole fails, each item is tried in one of its own.
    """
    changes = [enrollment(call, item.student_id, item) for item in body.items]
    outcomes = await call[REGISTRAR].submit_all(changes)
    items = [_bulk_outcome(call, change, outcome) for change, outcome in zip(changes, outcomes, strict=True)]
    return Written(f'{{"items":[{",".join(items)}]}}')


def _bulk_outcome(call: Call, change: Enroll, outcome: tuple[Result, ...] | Exception) -> str:
    """Write what became of one item."""
    if not isinstance(outcome, Exception):
        return f'{{"status":{201 if created(outcome) else 200},"body":{_enrollments(change.student_id, outcome)}}}'
    error = outcome
    if not isinstance(error, DomainError):
        # The other items are committed: what became of them has to be told all the same.
        logger.error("a fault of the service", exc_info=outcome, extra={"request_id": call.request_id})
        error = InternalError.logged()
    path = f"/students/{change.student_id}/enroll"
    refused = BulkOutcome(status=error.status, body=problem_of(error, instance=path, request_id=call.request_id))
    return BULK_OUTCOME.dump_json(refused).decode()


BULK_OUTCOME = TypeAdapter(BulkOutcome)
