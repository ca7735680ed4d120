"""Write exports: which files each format has, and how rows become their records."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from pydantic import TypeAdapter

from service.api import courses as api_courses
from service.api import instructors as api_instructors
from service.api import students as api_students
from service.api import terms as api_terms
from service.interchange.formats import oneroster
from service.interchange.formats.oneroster import HEADERS
from service.interchange.formats.plain import TABLES
from service.interchange.rows import Kind, own_key
from service.oneroster_ids import NO_TERM, EnrollmentKey, class_id, course_id, enrollment_id, session_id
from service.registrar.rules import number
from service.settings import Settings
from sql.courses import Course
from sql.exports import ExportedEnrollment, ExportedTeaching
from sql.instructors import Instructor
from sql.students import Student
from sql.terms import Term

ExportFormat: TypeAlias = Literal["plain", "ndjson", "canvas", "oneroster-1.1", "oneroster-1.2"]
DELTA_FORMATS: Final = frozenset({"oneroster-1.1", "oneroster-1.2"})

Cells: TypeAlias = Sequence[object]
"""A record: cells of CSV, or one text that is a line of NDJSON."""


class KnownCourse(NamedTuple):
    """What records of other rows need of a course."""

    key: str
    first_id: int
    """The lowest id of the courses with its code."""


@dataclass(slots=True)
class Context:
    """What records need besides their rows."""

    settings: Settings
    mark: str
    now: datetime
    is_delta: bool
    terms: dict[int, Term] = field(default_factory=dict)
    courses: dict[int, KnownCourse] = field(default_factory=dict)
    first_ids: dict[str, int] = field(default_factory=dict)
    """By code in lower case, the lowest id of its courses."""
    has_courses_without_term: bool = False

    def add_course(self, course: Course) -> None:
        """Note a course; they come in the order of their ids."""
        first_id = self.first_ids.setdefault(course.code.lower(), course.id)
        key = course.external_id or own_key(class_id(course.id), self.mark)
        self.courses[course.id] = KnownCourse(key, first_id)
        self.has_courses_without_term |= course.term_id is None


class Part(NamedTuple):
    """The records that the rows of a kind give a file."""

    kind: Kind
    records: Callable[[Context, Any], Iterable[Cells]]


@dataclass(frozen=True, slots=True)
class Sheet:
    """A file of an export. ``before`` are its records that belong to no row."""

    name: str
    header: Sequence[str]
    parts: Sequence[Part]
    before: Callable[[Context], Iterable[Cells]] = lambda _context: ()


# Plain CSV.


def key_of(person: Student | Instructor | ExportedEnrollment | ExportedTeaching) -> str:
    """Return the key of a person: the external id or, without one, the sourced id."""
    return person.external_id or person.sourced_id


def _plain_term(context: Context, term: Term) -> Iterable[Cells]:
    parent = None if term.parent_id is None else context.terms[term.parent_id].code
    deadlines = map(written, (term.enroll_from, term.enroll_until, term.drop_until, term.withdraw_until))
    yield [term.code, term.name, parent, term.starts_on, term.ends_on, *deadlines, amount(term.max_credits)]


def _plain_course(context: Context, course: Course) -> Iterable[Cells]:
    term = None if course.term_id is None else context.terms[course.term_id].code
    yield [
        *(context.courses[course.id].key, term, course.code, course.section, course.title, number(course.credits)),
        *(course.capacity, course.waitlist_capacity, course.meetings, course.status),
    ]


def _plain_instructor(_context: Context, person: Instructor) -> Iterable[Cells]:
    yield [person.external_id, person.sourced_id, person.given_name, person.family_name, person.email]


def _plain_student(_context: Context, person: Student) -> Iterable[Cells]:
    yield [
        *(person.external_id, person.sourced_id, person.given_name, person.family_name, person.preferred_name),
        *(person.email, amount(person.max_credits), person.groups),
    ]


def _plain_teaching(context: Context, row: ExportedTeaching) -> Iterable[Cells]:
    if row.teaches:
        yield [key_of(row), context.courses[row.course_id].key, truth(row.is_primary)]


def _plain_enrollment(context: Context, row: ExportedEnrollment) -> Iterable[Cells]:
    if row.status != "waitlisted":
        yield [key_of(row), context.courses[row.course_id].key, row.status, truth(row.passed), row.grade]


PLAIN_RECORDS: Final[Mapping[Kind, Callable[[Context, Any], Iterable[Cells]]]] = {
    "term": _plain_term,
    "course": _plain_course,
    "instructor": _plain_instructor,
    "student": _plain_student,
    "teaching": _plain_teaching,
    "enrollment": _plain_enrollment,
}

# NDJSON: what the API answers.

TERM: Final = TypeAdapter(api_terms.Term)
COURSE: Final = TypeAdapter(api_courses.Course)
INSTRUCTOR: Final = TypeAdapter(api_instructors.Instructor)
STUDENT: Final = TypeAdapter(api_students.Student)


def _ndjson_teaching(_context: Context, row: ExportedTeaching) -> Iterable[Cells]:
    if row.teaches:
        yield [as_json({"course_id": row.course_id, "instructor_id": row.instructor_id, "primary": row.is_primary})]


def _ndjson_enrollment(_context: Context, row: ExportedEnrollment) -> Iterable[Cells]:
    yield [
        as_json(
            {
                "student_id": row.student_id,
                "course_id": row.course_id,
                "status": row.status,
                "joined_at": written(row.joined_at),
                "updated_at": written(row.updated_at),
                "passed": row.passed,
                "grade": row.grade,
            }
        )
    ]


NDJSON: Final = (
    Sheet("terms.ndjson", (), [Part("term", lambda _, row: [[TERM.dump_json(api_terms.term_of(row)).decode()]])]),
    Sheet(
        "courses.ndjson", (), [Part("course", lambda _, row: [[COURSE.dump_json(api_courses.course_of(row)).decode()]])]
    ),
    Sheet(
        "instructors.ndjson",
        (),
        [Part("instructor", lambda _, row: [[INSTRUCTOR.dump_json(api_instructors.instructor_of(row)).decode()]])],
    ),
    Sheet(
        "students.ndjson",
        (),
        [Part("student", lambda _, row: [[STUDENT.dump_json(api_students.student_of(row)).decode()]])],
    ),
    Sheet("course_instructors.ndjson", (), [Part("teaching", _ndjson_teaching)]),
    Sheet("enrollments.ndjson", (), [Part("enrollment", _ndjson_enrollment)]),
)

# OneRoster.


TO_BE_DELETED: Final = "tobedeleted"


def status_cells(context: Context, updated_at: datetime, *, deleted: bool = False) -> Cells:
    """Return status and dateLastModified, which are blank in a bulk file."""
    if not context.is_delta:
        return "", ""
    instant = updated_at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds")
    return TO_BE_DELETED if deleted else "active", f"{instant}Z"


def _session(context: Context, term: Term) -> Iterable[Cells]:
    status = status_cells(context, term.updated_at)
    for type in ("term", "gradingPeriod"):
        parent = session_id("term", term.id) if type == "gradingPeriod" else ""
        if type == "term" and term.parent_id is not None:
            parent = session_id("term", term.parent_id)
        dates = term.starts_on, day_after(term.ends_on)
        yield [session_id(type, term.id), *status, term.name, type, *dates, parent, f"{term.ends_on.year:04}"]


def _session_without_term(context: Context) -> Iterable[Cells]:
    if context.has_courses_without_term:
        year = context.now.year
        dates = date(year, 1, 1), day_after(date(year, 12, 31))
        yield [NO_TERM, *status_cells(context, context.now), "Courses without a term", "schoolYear", *dates, "", year]


def _org(context: Context) -> Iterable[Cells]:
    settings = context.settings
    name, identifier = settings.oneroster_org_name, settings.oneroster_org_identifier
    yield [settings.oneroster_org_sourced_id, *status_cells(context, context.now), name, "school", identifier, ""]


def _course(context: Context, course: Course) -> Iterable[Cells]:
    known = context.courses[course.id]
    if known.first_id == course.id or context.is_delta:
        status = status_cells(context, course.updated_at)
        org = context.settings.oneroster_org_sourced_id
        yield [course_id(known.first_id), *status, "", course.title, course.code, "", org, "", ""]


def _class(context: Context, course: Course) -> Iterable[Cells]:
    if course.status == "cancelled" and not context.is_delta:
        return
    status = status_cells(context, course.updated_at, deleted=course.status == "cancelled")
    code = course.code if course.section is None else f"{course.code}-{course.section}"
    term = NO_TERM if course.term_id is None else session_id("term", course.term_id)
    school = context.settings.oneroster_org_sourced_id
    its = course_id(context.courses[course.id].first_id)
    yield [class_id(course.id), *status, course.title, "", its, code, "scheduled", "", school, term, "", "", ""]


def _user(context: Context, person: Student | Instructor, *, version: str) -> Cells:
    is_student = isinstance(person, Student)
    org = context.settings.oneroster_org_sourced_id
    username = person.external_id or person.email or person.sourced_id
    names = person.given_name or "", person.family_name or ""
    identifier = person.external_id or person.sourced_id
    base = [person.sourced_id, *status_cells(context, person.updated_at), "true"]
    if version == "1.1":
        role = "student" if is_student else "teacher"
        return [*base, org, role, username, "", *names, "", identifier, person.email or "", *[""] * 5]
    preferred = person.preferred_name or "" if isinstance(person, Student) else ""
    return [*base, username, "", *names, "", identifier, person.email or "", *[""] * 7, preferred, "", "", org, ""]


def _users_1_1(context: Context, person: Student | Instructor) -> Iterable[Cells]:
    yield _user(context, person, version="1.1")


def _users_1_2(context: Context, person: Student | Instructor) -> Iterable[Cells]:
    yield _user(context, person, version="1.2")


def _role(context: Context, person: Student | Instructor) -> Iterable[Cells]:
    role = "student" if isinstance(person, Student) else "teacher"
    status, org = status_cells(context, person.updated_at), context.settings.oneroster_org_sourced_id
    yield [f"role-{person.sourced_id}", *status, person.sourced_id, "primary", role, "", "", org, ""]


def _taught(context: Context, row: ExportedTeaching) -> Iterable[Cells]:
    if row.teaches or context.is_delta:
        id = enrollment_id(EnrollmentKey("teacher", row.instructor_id, row.course_id))
        status = status_cells(context, row.updated_at, deleted=not row.teaches)
        school = context.settings.oneroster_org_sourced_id
        its = class_id(row.course_id), school, row.sourced_id
        yield [id, *status, *its, "teacher", truth(row.is_primary), "", ""]


def _enrolled(context: Context, row: ExportedEnrollment) -> Iterable[Cells]:
    is_active = row.status in {"enrolled", "completed"}
    if row.status == "waitlisted" or not (is_active or context.is_delta):
        return
    id = enrollment_id(EnrollmentKey("student", row.student_id, row.course_id))
    status = status_cells(context, row.updated_at, deleted=not is_active)
    its = class_id(row.course_id), context.settings.oneroster_org_sourced_id, row.sourced_id
    end = "" if row.status == "enrolled" else day_after(row.updated_at.date())
    yield [id, *status, *its, "student", "", row.joined_at.date(), end]


def _oneroster(version: str) -> tuple[Sheet, ...]:
    headers = HEADERS[version]
    users = _users_1_2 if version == "1.2" else _users_1_1
    people: tuple[Kind, ...] = ("instructor", "student")
    roles = [Sheet("roles.csv", headers["roles"], [Part(kind, _role) for kind in people])] if version == "1.2" else []
    return (
        Sheet("orgs.csv", headers["orgs"], (), _org),
        Sheet("academicSessions.csv", headers["academicSessions"], [Part("term", _session)], _session_without_term),
        Sheet("courses.csv", headers["courses"], [Part("course", _course)]),
        Sheet("classes.csv", headers["classes"], [Part("course", _class)]),
        Sheet("users.csv", headers["users"], [Part(kind, users) for kind in people]),
        *roles,
        Sheet("enrollments.csv", headers["enrollments"], [Part("teaching", _taught), Part("enrollment", _enrolled)]),
    )


def manifest(version: str, context: Context) -> Iterable[Cells]:
    """Return the records of the manifest of an export."""
    present = {sheet.name.removesuffix(".csv") for sheet in SHEETS[f"oneroster-{version}"]}  # type: ignore[index]
    mode = "delta" if context.is_delta else "bulk"
    yield ["propertyName", "value"]
    yield ["manifest.version", "1.0"]
    yield ["oneroster.version", version]
    for name in oneroster.FILES[version]:
        yield [f"file.{name}", mode if name in present else "absent"]
    yield ["source.systemName", "Enrollment service"]
    yield ["source.systemCode", context.mark]


# Canvas SIS.


def _canvas_user(_context: Context, person: Student | Instructor) -> Iterable[Cells]:
    names = person.given_name or "", person.family_name or ""
    yield [key_of(person), person.email or key_of(person), *names, person.email or "", "active"]


def _canvas_term(_context: Context, term: Term) -> Iterable[Cells]:
    yield [term.code, term.name, "active", term.starts_on, term.ends_on]


def _canvas_course(context: Context, course: Course) -> Iterable[Cells]:
    term = "" if course.term_id is None else context.terms[course.term_id].code
    short_name = course.code if course.section is None else f"{course.code}-{course.section}"
    status = "deleted" if course.status == "cancelled" else "active"
    yield [context.courses[course.id].key, short_name, course.title, term, status]


def _canvas_teacher(context: Context, row: ExportedTeaching) -> Iterable[Cells]:
    yield [context.courses[row.course_id].key, key_of(row), "teacher", "active" if row.teaches else "deleted"]


CANVAS_STATUS: Final = {"enrolled": "active", "completed": "completed", "dropped": "deleted", "withdrawn": "deleted"}


def _canvas_student(context: Context, row: ExportedEnrollment) -> Iterable[Cells]:
    if (status := CANVAS_STATUS.get(row.status)) is not None:
        yield [context.courses[row.course_id].key, key_of(row), "student", status]


SHEETS: Final[Mapping[ExportFormat, tuple[Sheet, ...]]] = {
    "plain": tuple(
        Sheet(name, tuple(table.columns), [Part(table.kind, PLAIN_RECORDS[table.kind])])
        for name, table in TABLES.items()
    ),
    "ndjson": NDJSON,
    "canvas": (
        Sheet(
            "users.csv",
            ("user_id", "login_id", "first_name", "last_name", "email", "status"),
            [Part("instructor", _canvas_user), Part("student", _canvas_user)],
        ),
        Sheet("terms.csv", ("term_id", "name", "status", "start_date", "end_date"), [Part("term", _canvas_term)]),
        Sheet(
            "courses.csv",
            ("course_id", "short_name", "long_name", "term_id", "status"),
            [Part("course", _canvas_course)],
        ),
        Sheet(
            "enrollments.csv",
            ("course_id", "user_id", "role", "status"),
            [Part("teaching", _canvas_teacher), Part("enrollment", _canvas_student)],
        ),
    ),
    "oneroster-1.1": _oneroster("1.1"),
    "oneroster-1.2": _oneroster("1.2"),
}
"""The files of each format."""


def gone(context: Context, sheet: str, ids: Iterable[int]) -> Iterable[Cells]:
    """Return the records of a delta about terms or courses that were deleted: all that is left of them is the sourcedId."""
    status = status_cells(context, context.now, deleted=True)
    for id in ids:
        if sheet == "academicSessions.csv":
            today = context.now.date()
            for type in ("term", "gradingPeriod"):
                yield [session_id(type, id), *status, "", type, today, today, "", f"{today.year:04}"]
        else:
            yield [class_id(id), *status, "", "", course_id(id), "", "scheduled", "", "", NO_TERM, "", "", ""]


def deleted(record: Cells) -> Cells:
    """Return the record of what was deleted: its status is the second column."""
    sourced_id, _, *rest = record
    return [sourced_id, TO_BE_DELETED, *rest]


def deleted_person(id: int, sourced_id: str, deleted_at: datetime, *, is_student: bool) -> Student | Instructor:
    """Return a person of whom only the sourced id is left."""
    if is_student:
        return Student(
            id=id,
            external_id=None,
            sourced_id=sourced_id,
            given_name=None,
            family_name=None,
            preferred_name=None,
            email=None,
            max_credits=None,
            groups="",
            version=1,
            created_at=deleted_at,
            updated_at=deleted_at,
        )
    return Instructor(
        id=id,
        external_id=None,
        sourced_id=sourced_id,
        given_name=None,
        family_name=None,
        email=None,
        version=1,
        created_at=deleted_at,
        updated_at=deleted_at,
    )


def day_after(day: date) -> date:
    """Return the next day: in OneRoster, a period ends before its last day."""
    return day if day == date.max else day + timedelta(days=1)


def written(instant: datetime | None) -> str | None:
    """Return an instant as RFC 3339."""
    return None if instant is None else instant.isoformat().replace("+00:00", "Z")


def amount(credits: float | None) -> float | int | None:
    """Return a credit limit without a needless fraction."""
    return None if credits is None else number(credits)


def truth(value: bool | None) -> str | None:
    """Return true or false as a cell."""
    return None if value is None else str(value).lower()


def as_json(value: Mapping[str, object]) -> str:
    """Return an object as a line of JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
