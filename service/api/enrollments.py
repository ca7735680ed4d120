"""The calls about enrollments."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final, Literal, cast

from pydantic import TypeAdapter

from service.api.enrollment_types import (
    ACTIVE,
    ALL_STATUSES,
    AnyResult,
    CompletionRequest,
    CourseInfo,
    CourseStudent,
    CourseStudentsQuery,
    DropQuery,
    DryRun,
    Enrolled,
    EnrollmentRequest,
    EnrollmentResult,
    Enrollments,
    EnrollmentsQuery,
    Left,
    ListedEnrollment,
    MovedCourse,
    Preview,
    Reason,
    Refusal,
    Refused,
    StudentCourse,
    StudentCoursesQuery,
    SwapRequest,
    Unchanged,
    Waitlisted,
)
from service.api.fields import IdInPath, ReasonQuery
from service.api.keys import COURSES_OF_STUDENTS, DATABASE, REGISTRAR, STUDENTS_OF_COURSES, origin_of, submit
from service.errors import (
    AlreadyCompleted,
    CourseCancelled,
    CourseNotFound,
    Detail,
    DropRefused,
    EnrollmentNotFound,
    EnrollmentRefused,
    InvalidResult,
    NotCompleted,
    NotEnrolled,
    StudentNotFound,
    UnknownCourse,
    UnknownGrade,
)
from service.registrar import application
from service.registrar.changes import Moved, Result
from service.registrar.enrollments import Complete, Drop, Enroll, KeepDrops, RemoveCompletion, Swap
from service.registrar.moves import swap_drops_of
from service.registrar.rules import sentence, sentence_of
from service.web.endpoint import Call, Reply, Written, endpoint
from service.web.paging import (
    WrittenPage,
    decode_cursor,
    decode_keys,
    keyed_page,
    list_name,
    written_page,
)
from service.web.problems import invalid
from sql import Connection, JsonPage
from sql import enrollments as sql
from sql.courses import Course, get_course, load_courses
from sql.enrollments import CoursesAsked, Status, StudentsAsked
from sql.lost_requirements import list_lost_of_course
from sql.students import load_students
from sql.waitlist import list_waitlist

SCANNED_ENROLLMENTS: Final = 10_000
"""The enrollments that a page examines, in about 20 ms; see ``SCANNED_ROWS``."""


def explain(course_id: int, reasons: Iterable[Mapping[str, object]]) -> list[dict[str, object]]:
    """Add the message to each reason for a course."""
    return [{**reason, "detail": sentence_of(str(reason["code"]), course_id, reason)} for reason in reasons]


def explained(page: JsonPage, course_id: int | None = None) -> JsonPage:
    """Return a page of enrollments with the messages of ``blocked_by``; the items have the course, or all have one."""
    if page.items is None or '"blocked_by":[' not in page.items:
        return page
    items = json.loads(page.items)
    for item in items:
        if item["blocked_by"] is not None:
            item["blocked_by"] = explain(course_id or item["course_id"], item["blocked_by"])
    return page._replace(items=json.dumps(items, ensure_ascii=False, separators=(",", ":")))


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

    The status is 201 if the student got a seat or a waitlist place in any course, and 200 if nothing changed. A course
    in which the student is already enrolled or waitlisted is `unchanged`, so that the call is safe to repeat. In mode
    `atomic`, one refused course refuses the request, and `errors` lists every reason for every course. In mode
    `partial`, each course has its own result. A waitlist place for another section of a course in which the student gets
    a seat is `dropped`.
    """
    return await _answer(call, enrollment(call, student_id, body), dry_run=query.dry_run)


def enrollment(call: Call, student_id: int, body: EnrollmentRequest) -> Enroll:
    """Return the change that a request asks for."""
    return Enroll(
        origin=origin_of(call),
        student_id=student_id,
        course_ids=tuple(body.course_ids),
        mode=body.mode,
        on_full=body.on_full,
    )


async def _answer(call: Call, change: Enroll | Swap, *, dry_run: bool) -> Reply[Written[Preview | Enrollments]]:
    """Submit or preview a change, and return its results."""
    if dry_run:
        results = await call[REGISTRAR].preview(change)
        return Reply(Written(write_enrollments(change.student_id, results, dry_run=True)), 200)
    return await submit(
        call,
        change,
        lambda results: Reply(Written(write_enrollments(change.student_id, results)), 201 if created(results) else 200),
    )


def write_enrollments(student_id: int, results: Iterable[Result], *, dry_run: bool = False) -> str:
    """Return results as the JSON of ``Enrollments``, or of ``Preview`` for a dry run."""
    items = ",".join([_result(result) for result in results])
    more = ',"dry_run":true' if dry_run else ""
    return f'{{"student_id":{student_id},"results":[{items}]{more}}}'


def created(results: Sequence[Result]) -> bool:
    """Return whether the student got a seat or a waitlist place in any course."""
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

    The courses to add are judged as if the drops had already been made, so that their time and credits are free. If
    the student is waitlisted for the course to add, the courses to drop are `kept`: the transaction that gives the
    student the seat drops them.
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

    By default, the list contains the courses in which the student is enrolled or waitlisted.
    """
    of = list_name(f"courses of {student_id}", query)
    after = decode_cursor(query.cursor, of)
    limit = query.limit if query.term_id is None else MAX_PAGE
    asked = CoursesAsked(student_id, " ".join(query.status or ACTIVE), after, limit)
    page = await call[COURSES_OF_STUDENTS].submit(asked, call.disconnected)
    if page is None:
        raise StudentNotFound(student_id)
    if query.term_id is not None:
        page = _of_term(page, query.term_id, query.limit)
    return written_page(explained(page).items, page.next_after, of)


MAX_PAGE: Final = 500
"""The courses of a student from which those of a term are chosen: more than any student has."""


def _of_term(page: JsonPage, term_id: int, limit: int) -> JsonPage:
    """Return the courses of a page that are in a term.

    The statement has no condition for it, because every list of a student's courses would pay for that.
    """
    items = [item for item in json.loads(page.items or "[]") if item["course"]["term_id"] == term_id]
    next_after = page.next_after if len(items) <= limit else items[limit - 1]["course_id"]
    text = json.dumps(items[:limit], ensure_ascii=False, separators=(",", ":"))
    return page._replace(items=text, next_after=next_after)


@endpoint(
    "GET",
    "/students/{student_id}/courses/{course_id}",
    scope="read",
    problems=[StudentNotFound, EnrollmentNotFound],
)
async def read_student_course(call: Call, student_id: IdInPath, course_id: IdInPath) -> Written[StudentCourse]:
    """Read a student's enrollment in a course.

    The answer is the item that the list of the student's courses has, whatever its status.
    """
    asked = CoursesAsked(student_id, " ".join(ALL_STATUSES), course_id - 1, 1)
    page = await call[COURSES_OF_STUDENTS].submit(asked, call.disconnected)
    if page is None:
        raise StudentNotFound(student_id)
    # The first course from this id on may be another one.
    if page.items is None or not page.items.startswith(f'[{{"course_id":{course_id},'):
        raise EnrollmentNotFound(student_id, course_id)
    return Written((explained(page).items or "")[1:-1])


async def find_courses(connection: Connection, asked: list[CoursesAsked]) -> dict[CoursesAsked, JsonPage]:
    """Load pages of students' courses. A student who does not exist has no page."""
    pages = await sql.list_courses_of_students_not_waiting(connection, asked)
    found = {asked[page.number - 1]: page for page in pages}
    if waiting := [each for each in asked if each not in found]:
        pages = await sql.list_courses_of_students(connection, waiting)
        found |= {waiting[page.number - 1]: page for page in pages}
    if empty := [each for each, page in found.items() if page.items is None]:
        existing = {student.id for student in await load_students(connection, [each.student_id for each in empty])}
        for each in empty:
            if each.student_id not in existing:
                del found[each]
    return found


@endpoint(
    "DELETE",
    "/students/{student_id}/courses/{course_id}",
    scope="enroll",
    problems=[StudentNotFound, EnrollmentNotFound, AlreadyCompleted, DropRefused],
)
async def drop_course(call: Call, student_id: IdInPath, course_id: IdInPath, query: DropQuery) -> MovedCourse:
    """Drop a student's course, or leave its waitlist.

    The first eligible student on the waitlist gets the seat in the same transaction. From the term's `drop_until` on, a
    drop is a withdrawal. A course that is already dropped is `unchanged`, so that the call is safe to repeat.

    With `as=dropped` the course is dropped as if the student had never taken it: no deadline and no hold refuses that, and
    a withdrawal becomes a drop. It also requires the scope `override`, and a `reason`.
    """
    annuls = query.as_ is not None
    if annuls:
        call.require("override")
        if query.reason is None:
            raise invalid([Detail("required", "reason is required with as=dropped.", parameter="reason")])
    change = Drop(origin=origin_of(call, query.reason), student_id=student_id, course_id=course_id, annuls=annuls)
    return moved_course_of(await call[REGISTRAR].submit(change))


@endpoint(
    "DELETE",
    "/students/{student_id}/courses/{course_id}/swap",
    scope="enroll",
    problems=[StudentNotFound, EnrollmentNotFound],
)
async def keep_drops(call: Call, student_id: IdInPath, course_id: IdInPath) -> MovedCourse:
    """Keep the courses that a swap would drop for this course; the student stays on its waitlist.

    The result is `unchanged` if the swap would drop nothing, so that the call is safe to repeat. A place for another
    section of a course in which the student now keeps the seat is `dropped`.
    """
    change = KeepDrops(origin=origin_of(call), student_id=student_id, course_id=course_id)
    return moved_course_of(await call[REGISTRAR].submit(change))


@endpoint(
    "POST",
    "/students/{student_id}/courses/{course_id}/complete",
    scope="manage",
    problems=[StudentNotFound, CourseNotFound, NotEnrolled, UnknownGrade, InvalidResult],
    final=True,
)
async def complete_course(
    call: Call, student_id: IdInPath, course_id: IdInPath, body: CompletionRequest
) -> MovedCourse:
    """Record that a student completed a course, or correct the record.

    The student must be enrolled in the course or have completed it already. A completed course keeps its seat.
    """
    change = Complete(
        origin=origin_of(call),
        student_id=student_id,
        course_id=course_id,
        passed=body.passed,
        grade=body.grade,
    )
    return await submit(call, change, moved_course_of)


@endpoint(
    "DELETE",
    "/students/{student_id}/courses/{course_id}/completion",
    scope="manage",
    problems=[StudentNotFound, EnrollmentNotFound, NotCompleted, CourseCancelled],
)
async def remove_completion(call: Call, student_id: IdInPath, course_id: IdInPath, query: ReasonQuery) -> MovedCourse:
    """Take back that a student completed a course: the student is enrolled in it again.

    The student keeps the seat. The result and the grade are removed; the history keeps them. A course in which the student
    is enrolled is `unchanged`, so that the call is safe to repeat.
    """
    change = RemoveCompletion(origin=origin_of(call, query.reason), student_id=student_id, course_id=course_id)
    return moved_course_of(await call[REGISTRAR].submit(change))


def _blocked_by(row: sql.Enrollment) -> list[Reason] | None:
    """Return the reasons for which a waitlisted student is passed over, or None."""
    if row.recheck_at is None or row.blocked_reasons is None:
        return None
    return cast(list[Reason], explain(row.course_id, json.loads(row.blocked_reasons)))


def moved_course_of(moved: Moved) -> MovedCourse:
    """Convert the row after a change to the enrollment that the API returns."""
    row = moved.enrollment
    return MovedCourse(
        course_id=row.course_id,
        status=row.status,
        position=moved.position,
        blocked_by=_blocked_by(row),
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

    By default, the list contains the enrolled students; `requirement=lost` is the list of those to whom to talk, since the
    service removes nobody.
    """
    if query.requirement is not None and query.status != "enrolled":
        sentence = "requirement can't be combined with a status other than enrolled: omit one."
        raise invalid([Detail("not_combinable", sentence, parameter="requirement")])
    of = f"students of {course_id} {query.requirement or query.status}"
    after = decode_cursor(query.cursor, of)
    page: JsonPage | None
    if query.status == "waitlisted" or query.requirement == "lost":
        list_page = list_waitlist if query.status == "waitlisted" else list_lost_of_course
        async with call[DATABASE].reading() as connection:
            [page] = await list_page(connection, course_id, after, query.limit)
            if page.items is None and await get_course(connection, course_id) is None:
                raise CourseNotFound(course_id)
        page = explained(page, course_id)
    else:
        asked = StudentsAsked(course_id, query.status, after, query.limit)
        page = await call[STUDENTS_OF_COURSES].submit(asked, call.disconnected)
        if page is None:
            raise CourseNotFound(course_id)
    return written_page(page.items, page.next_after, of)


async def find_students(connection: Connection, asked: list[StudentsAsked]) -> dict[StudentsAsked, JsonPage]:
    """Load pages of courses' students. A course that does not exist has no page."""
    found = {asked[page.number - 1]: page for page in await sql.list_students_of_courses(connection, asked)}
    if empty := [each for each, page in found.items() if page.items is None]:
        existing = {course.id for course in await load_courses(connection, [each.course_id for each in empty])}
        for each in empty:
            if each.course_id not in existing:
                del found[each]
    return found


@endpoint("GET", "/enrollments", scope="read")
async def list_enrollments(call: Call, query: EnrollmentsQuery) -> WrittenPage[ListedEnrollment]:
    """List enrollments in any status; filter them by student, course, term, status and time of change.

    With `course_id` or `term_id` the list is ordered by course and student, otherwise by student and course; `student_id`
    takes precedence. A page examines some thousand enrollments: it may have fewer items than `limit`, or none, although
    others follow. Only `next` says whether they do.
    """
    of = list_name("enrollments", query)
    statuses: list[str] | None = None if query.status is None else [*query.status]
    if query.student_id is None and (query.course_id is not None or query.term_id is not None):
        after_course, after_student = decode_keys(query.cursor, of, query.course_id or 0, 0)
        async with call[DATABASE].reading() as connection:
            [page] = await sql.list_enrollments_of_courses(
                connection,
                after_course,
                after_student,
                SCANNED_ENROLLMENTS,
                query.limit,
                course_id=query.course_id,
                term_id=query.term_id,
                statuses=statuses,
                updated_since=query.updated_since,
            )
        after = page.next_course_id, page.next_student_id
    else:
        after_student, after_course = decode_keys(query.cursor, of, query.student_id or 0, 0)
        async with call[DATABASE].reading() as connection:
            [page] = await sql.list_enrollments(
                connection,
                after_student,
                after_course,
                SCANNED_ENROLLMENTS,
                query.limit,
                student_id=query.student_id,
                course_id=query.course_id,
                term_id=query.term_id,
                statuses=statuses,
                updated_since=query.updated_since,
            )
        after = page.next_student_id, page.next_course_id
    return keyed_page(page.items, [key for key in after if key is not None] or None, of)


def _result(result: Result) -> str:
    """Return the result of one course as JSON."""
    course = result.course
    if course is None or result.outcome == "refused":
        return _json(Refused(course_id=result.course_id, errors=[refusal_of(refusal) for refusal in result.refusals]))
    if result.outcome == "waitlisted":
        assert result.position is not None
        return _json(Waitlisted(course_id=course.id, position=result.position, course=_info(course)))
    shown = course.id, course.external_id, course.code, course.title, course.credits, course.term_id
    return _common_result(result.outcome, result.status, result.position, shown)


@lru_cache(maxsize=16_384)
def _common_result(
    outcome: Literal["enrolled", "unchanged", "dropped", "withdrawn", "kept"],
    status: Status | None,
    position: int | None,
    shown: tuple[int, str | None, str, str, float, int | None],
) -> str:
    """Return a result as JSON, cached because it is the same for every student who requests the course."""
    course_id, external_id, code, title, credits, term_id = shown
    info = CourseInfo(id=course_id, external_id=external_id, code=code, title=title, credits=credits, term_id=term_id)
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
    """Convert a refusal to the form of the API."""
    return cast(Refusal, {"code": refusal.code, **refusal.params, "detail": sentence(refusal)})


def _info(course: Course) -> CourseInfo:
    return CourseInfo(
        id=course.id,
        external_id=course.external_id,
        code=course.code,
        title=course.title,
        credits=course.credits,
        term_id=course.term_id,
    )
