"""The 39 operations of OneRoster that read a roster, as a table."""

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from service.oneroster.resources import CLASSES, COURSES, ENROLLMENTS, SESSIONS, USERS, Narrowing, Resource

Parent: TypeAlias = Literal["class", "course", "student", "teacher", "user", "term"]


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation. Its ``resource`` is None for the institution, which is in no table."""

    id: str
    summary: str
    path: str
    resource: Resource | None
    member: str
    """The name of the only member of the answer."""
    scope: Narrowing = field(default_factory=dict)
    """The parameters of the statement that select what the operation lists."""
    parent: Parent | None = None
    """The object, besides the school, below which the operation lists others."""

    @property
    def is_single(self) -> bool:
        """Whether the operation returns one object."""
        return self.path.endswith("/{sourcedId}")

    @property
    def is_core(self) -> bool:
        """Whether the scope of the core operations is enough."""
        return self.is_single or "{" not in self.path


SESSION: Final = ("academicSessions", "academicSession")
CLASS: Final = ("classes", "class")
COURSE: Final = ("courses", "course")
ENROLLMENT: Final = ("enrollments", "enrollment")
ORG: Final = ("orgs", "org")
USER: Final = ("users", "user")

STUDENT: Final[Narrowing] = {"roles": ["student"]}
TEACHER: Final[Narrowing] = {"roles": ["teacher"]}
TERM: Final[Narrowing] = {"types": ["term"]}
GRADING_PERIOD: Final[Narrowing] = {"types": ["gradingPeriod"]}

_COLLECTIONS: Final[list[tuple[str, str, str, Resource | None, tuple[str, str], Narrowing]]] = [
    ("academicSessions", "AcademicSession", "academic session", SESSIONS, SESSION, {}),
    ("classes", "Class", "class", CLASSES, CLASS, {}),
    ("courses", "Course", "course", COURSES, COURSE, {}),
    ("enrollments", "Enrollment", "enrollment", ENROLLMENTS, ENROLLMENT, {}),
    ("gradingPeriods", "GradingPeriod", "grading period", SESSIONS, SESSION, GRADING_PERIOD),
    ("orgs", "Org", "organization", None, ORG, {}),
    ("schools", "School", "school", None, ORG, {}),
    ("students", "Student", "student", USERS, USER, STUDENT),
    ("teachers", "Teacher", "teacher", USERS, USER, TEACHER),
    ("terms", "Term", "term", SESSIONS, SESSION, TERM),
    ("users", "User", "user", USERS, USER, {}),
]

_CLASS: Final = "/classes/{classSourcedId}"
_SCHOOL: Final = "/schools/{schoolSourcedId}"
_TERM: Final = "/terms/{termSourcedId}"

_NESTED: Final = (
    Operation(
        "getStudentsForClass", "List the students of a class", f"{_CLASS}/students", USERS, "users", STUDENT, "class"
    ),
    Operation(
        "getTeachersForClass", "List the teachers of a class", f"{_CLASS}/teachers", USERS, "users", TEACHER, "class"
    ),
    Operation(
        "getClassesForCourse",
        "List the classes of a course",
        "/courses/{courseSourcedId}/classes",
        CLASSES,
        "classes",
        parent="course",
    ),
    Operation("getClassesForSchool", "List the classes of a school", f"{_SCHOOL}/classes", CLASSES, "classes"),
    Operation(
        "getEnrollmentsForClassInSchool",
        "List the enrollments of a class in a school",
        f"{_SCHOOL}{_CLASS}/enrollments",
        ENROLLMENTS,
        "enrollments",
        parent="class",
    ),
    Operation(
        "getStudentsForClassInSchool",
        "List the students of a class in a school",
        f"{_SCHOOL}{_CLASS}/students",
        USERS,
        "users",
        STUDENT,
        "class",
    ),
    Operation(
        "getTeachersForClassInSchool",
        "List the teachers of a class in a school",
        f"{_SCHOOL}{_CLASS}/teachers",
        USERS,
        "users",
        TEACHER,
        "class",
    ),
    Operation("getCoursesForSchool", "List the courses of a school", f"{_SCHOOL}/courses", COURSES, "courses"),
    Operation(
        "getEnrollmentsForSchool",
        "List the enrollments of a school",
        f"{_SCHOOL}/enrollments",
        ENROLLMENTS,
        "enrollments",
    ),
    Operation("getStudentsForSchool", "List the students of a school", f"{_SCHOOL}/students", USERS, "users", STUDENT),
    Operation("getTeachersForSchool", "List the teachers of a school", f"{_SCHOOL}/teachers", USERS, "users", TEACHER),
    Operation(
        "getTermsForSchool", "List the terms of a school", f"{_SCHOOL}/terms", SESSIONS, "academicSessions", TERM
    ),
    Operation(
        "getClassesForStudent",
        "List the classes of a student",
        "/students/{studentSourcedId}/classes",
        CLASSES,
        "classes",
        parent="student",
    ),
    Operation(
        "getClassesForTeacher",
        "List the classes of a teacher",
        "/teachers/{teacherSourcedId}/classes",
        CLASSES,
        "classes",
        parent="teacher",
    ),
    Operation(
        "getClassesForUser",
        "List the classes of a user",
        "/users/{userSourcedId}/classes",
        CLASSES,
        "classes",
        parent="user",
    ),
    Operation("getClassesForTerm", "List the classes of a term", f"{_TERM}/classes", CLASSES, "classes", parent="term"),
    Operation(
        "getGradingPeriodsForTerm",
        "List the grading periods of a term",
        f"{_TERM}/gradingPeriods",
        SESSIONS,
        "academicSessions",
        GRADING_PERIOD,
        "term",
    ),
)

OPERATIONS: Final = (
    *[
        operation
        for path, name, words, resource, (many, one), scope in _COLLECTIONS
        for operation in (
            Operation(f"getAll{path[0].upper()}{path[1:]}", f"List every {words}", f"/{path}", resource, many, scope),
            Operation(f"get{name}", f"Return one {words}", f"/{path}/{{sourcedId}}", resource, one, scope),
        )
    ],
    *_NESTED,
)
