"""The objects of OneRoster as JSON, in both versions. The discovery documents describe what is declared here."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Final, Literal, NotRequired, TypeAlias, cast

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from service import oneroster_ids as ids
from service.oneroster_ids import EnrollmentKey, SessionType
from sql.oneroster import RosterClass, RosterCourse, RosterEnrollment, RosterSession, RosterUser

Version: TypeAlias = Literal["v1p2", "v1p1"]
BASES: Final[dict[Version, str]] = {"v1p2": "/ims/oneroster/rostering/v1p2", "v1p1": "/ims/oneroster/v1p1"}

CLOSED: Final = ConfigDict(extra="forbid")
ORG_MODIFIED_AT: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""The last change of the institution itself, which has no history here."""

Status: TypeAlias = Literal["active", "tobedeleted"]
Boolean: TypeAlias = Literal["true", "false"]
RoleName: TypeAlias = Literal["student", "teacher"]
Day: TypeAlias = Annotated[str, Field(json_schema_extra={"format": "date"})]
Instant: TypeAlias = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


@with_config(CLOSED)
class Reference(TypedDict):
    """A reference to another object."""

    href: Annotated[str, Field(json_schema_extra={"format": "uri"})]
    sourcedId: str
    type: Literal["academicSession", "class", "course", "org", "user"]


class Base(TypedDict):
    """What all objects have."""

    sourcedId: str
    status: Status
    dateLastModified: Instant


@with_config(CLOSED)
class Org(Base):
    """The institution."""

    name: str
    type: Literal["school"]
    identifier: str


@with_config(CLOSED)
class AcademicSession(Base):
    """A term, the grading period of a term, or the session of all courses without a term."""

    title: str
    startDate: Day
    endDate: Annotated[Day, Field(description="The first day after the session.")]
    type: Literal["gradingPeriod", "schoolYear", "term"]
    parent: NotRequired[Reference]
    children: NotRequired[list[Reference]]
    schoolYear: Annotated[str, Field(description="The year in which the session ends.")]


@with_config(CLOSED)
class Course(Base):
    """What all classes with one code have in common."""

    title: str
    courseCode: str
    org: Reference


@with_config(CLOSED)
class Class(Base):
    """One of our courses: an offering in a term."""

    title: str
    classCode: Annotated[str, Field(description="The code of the course, with the section if it has one.")]
    classType: Literal["scheduled"]
    course: Reference
    school: Reference
    terms: Annotated[list[Reference], Field(description="The term, or the session of all courses without a term.")]


# "class" is a keyword of Python.
_OfClass = TypedDict("_OfClass", {"class": Reference})


@with_config(CLOSED)
class Enrollment(Base, _OfClass):
    """An enrollment of a student, or the teaching of an instructor."""

    user: Reference
    school: Reference
    role: RoleName
    primary: NotRequired[Annotated[Boolean, Field(description="Only of a teacher.")]]
    beginDate: NotRequired[Annotated[Day, Field(description="Only of a student.")]]
    endDate: NotRequired[Annotated[Day, Field(description="The first day after the enrollment.")]]


@with_config(CLOSED)
class Role(TypedDict):
    """The role of a user."""

    roleType: Literal["primary"]
    role: RoleName
    org: Reference


class Person(Base):
    """What a user has in both versions."""

    username: str
    enabledUser: Boolean
    givenName: str
    familyName: str
    identifier: str
    email: NotRequired[str]


@with_config(CLOSED)
class User(Person):
    """A student or an instructor in OneRoster 1.2."""

    preferredFirstName: NotRequired[str]
    roles: list[Role]
    primaryOrg: Reference


@with_config(CLOSED)
class User11(Person):
    """A student or an instructor in OneRoster 1.1."""

    role: RoleName
    orgs: list[Reference]


@dataclass(frozen=True, slots=True)
class Organization:
    """The institution as OneRoster shows it."""

    sourced_id: str
    name: str
    identifier: str


def write_instant(instant: datetime) -> str:
    """Return an instant in UTC with three digits of its fraction, rounded down."""
    return f"{instant.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def status_of(*, deleted: bool) -> Status:
    """Return the status of an object."""
    return "tobedeleted" if deleted else "active"


def day_after(day: date) -> str:
    """Return the next day: in OneRoster, a period ends before its last day."""
    return (day if day == date.max else day + timedelta(days=1)).isoformat()


class Writer:
    """Writes objects with absolute references, for one version and one institution."""

    def __init__(self, version: Version, origin: str, org: Organization) -> None:
        """``origin`` is the URL at which callers reach the service, without a slash at its end."""
        self._base = f"{origin}{BASES[version]}"
        self._version = version
        self._org = org
        self._school = self._reference("orgs", "org", org.sourced_id)

    def org(self) -> Org:
        """Return the institution."""
        return {
            "sourcedId": self._org.sourced_id,
            "status": status_of(deleted=False),
            "dateLastModified": write_instant(ORG_MODIFIED_AT),
            "name": self._org.name,
            "type": "school",
            "identifier": self._org.identifier,
        }

    def user(self, row: RosterUser) -> User | User11:
        """Return a student or an instructor."""
        role: RoleName = "student" if row.role == "student" else "teacher"
        roles: list[Role] = [{"roleType": "primary", "role": role, "org": self._school}]
        user: User = {
            "sourcedId": row.sourced_id,
            "status": status_of(deleted=row.deleted),
            "dateLastModified": write_instant(row.modified_at),
            "username": row.external_id or row.email or row.sourced_id,
            "enabledUser": "false" if row.deleted else "true",
            "givenName": row.given_name or "",
            "familyName": row.family_name or "",
            "identifier": row.external_id or row.sourced_id,
            "roles": roles,
            "primaryOrg": self._school,
        }
        if row.email is not None:
            user["email"] = row.email
        if self._version == "v1p1":
            person = {name: value for name, value in user.items() if name not in {"roles", "primaryOrg"}}
            return cast(User11, {**person, "role": role, "orgs": [self._school]})
        if row.preferred_name is not None:
            user["preferredFirstName"] = row.preferred_name
        return user

    def course(self, row: RosterCourse) -> Course:
        """Return a course of OneRoster."""
        return {
            "sourcedId": ids.course_id(row.id),
            "status": status_of(deleted=row.deleted),
            "dateLastModified": write_instant(row.modified_at),
            "title": row.title,
            "courseCode": row.code,
            "org": self._school,
        }

    def class_(self, row: RosterClass) -> Class:
        """Return a class. A deleted one belongs to the course that a first course with its id stands for."""
        term = ids.NO_TERM if row.term_id is None else ids.session_id("term", row.term_id)
        return {
            "sourcedId": ids.class_id(row.id),
            "status": status_of(deleted=row.deleted),
            "dateLastModified": write_instant(row.modified_at),
            "title": row.title,
            "classCode": row.code if row.section is None else f"{row.code}-{row.section}",
            "classType": "scheduled",
            "course": self._reference("courses", "course", ids.course_id(row.first_id or row.id)),
            "school": self._school,
            "terms": [self._reference("academicSessions", "academicSession", term)],
        }

    def enrollment(self, row: RosterEnrollment) -> Enrollment:
        """Return an enrollment of a student, or the teaching of an instructor."""
        key = EnrollmentKey(row.role, row.person_id, row.course_id)
        enrollment: Enrollment = {
            "sourcedId": ids.enrollment_id(key),
            "status": status_of(deleted=row.deleted),
            "dateLastModified": write_instant(row.modified_at),
            "user": self._reference("users", "user", row.sourced_id),
            "class": self._reference("classes", "class", ids.class_id(row.course_id)),
            "school": self._school,
            "role": "student" if row.role == "student" else "teacher",
        }
        if row.is_primary is not None:
            enrollment["primary"] = "true" if row.is_primary else "false"
        if row.began_at is not None:
            enrollment["beginDate"] = row.began_at.date().isoformat()
        if row.status != "enrolled":
            enrollment["endDate"] = day_after(row.modified_at.date())
        return enrollment

    def session(self, row: RosterSession) -> AcademicSession:
        """Return an academic session. A term has its parts and its grading period as children."""
        type: SessionType = (
            "term" if row.type == "term" else "gradingPeriod" if row.type == "gradingPeriod" else "schoolYear"
        )
        session: AcademicSession = {
            "sourcedId": ids.session_id(row.type, row.id),
            "status": status_of(deleted=row.deleted),
            "dateLastModified": write_instant(row.modified_at),
            "title": row.title,
            "startDate": row.first_day.isoformat(),
            "endDate": day_after(row.last_day),
            "type": type,
            "schoolYear": f"{row.last_day.year:04}",
        }
        if row.parent_id is not None:
            session["parent"] = self._session_reference("term", row.parent_id)
        if row.type == "term":
            parts = [self._session_reference("term", id) for id in row.part_ids]
            session["children"] = [*parts, self._session_reference("gradingPeriod", row.id)]
        return session

    def _session_reference(self, type: str, term_id: int) -> Reference:
        return self._reference("academicSessions", "academicSession", ids.session_id(type, term_id))

    def _reference(
        self, path: str, type: Literal["academicSession", "class", "course", "org", "user"], sourced_id: str
    ) -> Reference:
        return {"href": f"{self._base}/{path}/{sourced_id}", "sourcedId": sourced_id, "type": type}
