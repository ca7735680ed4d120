"""The sourcedIds of what has no id of that kind here: classes, courses, sessions and enrollments.

Each is made of ids that never change, padded with zeros, so that their order as texts is that of the ids. People have
sourced ids of their own.
"""

import re
from typing import Final, Literal, NamedTuple, TypeAlias

SessionType: TypeAlias = Literal["term", "gradingPeriod", "schoolYear"]

NO_TERM: Final = "no-term"
"""The sourcedId of the session of all courses without a term."""

SESSION_PREFIXES: Final[dict[str, SessionType]] = {"term": "term", "gp-term": "gradingPeriod"}

_NUMBERED: Final = re.compile(r"([a-z-]+)-([0-9]{10,18})", re.ASCII)
_ENROLLMENT: Final = re.compile(r"enrollment-([0-9]{10,18})-([0-9]{10,18})-(student|teacher)", re.ASCII)


class EnrollmentKey(NamedTuple):
    """What identifies an enrollment: a student or an instructor, and a course."""

    role: str
    person_id: int
    course_id: int


class SessionKey(NamedTuple):
    """What identifies an academic session: its type, and the id of its term or 0."""

    type: SessionType
    id: int


def padded(id: int) -> str:
    """Return an id with at least ten digits."""
    return f"{id:010}"


def class_id(course_id: int) -> str:
    """Return the sourcedId of a class: one of our courses."""
    return f"class-{padded(course_id)}"


def course_id(first_id: int) -> str:
    """Return the sourcedId of a course of OneRoster: that of the first of our courses with its code."""
    return f"course-{padded(first_id)}"


def session_id(type: str, term_id: int) -> str:
    """Return the sourcedId of an academic session."""
    if type == "schoolYear":
        return NO_TERM
    return f"{'term' if type == 'term' else 'gp-term'}-{padded(term_id)}"


def enrollment_id(key: EnrollmentKey) -> str:
    """Return the sourcedId of an enrollment, the same one however often its student enrolls."""
    return f"enrollment-{padded(key.person_id)}-{padded(key.course_id)}-{key.role}"


def _number(text: str, prefix: str) -> int | None:
    match = _NUMBERED.fullmatch(text)
    if match is None or match[1] != prefix or padded(int(match[2])) != match[2]:
        return None
    return int(match[2])


def read_class_id(text: str) -> int | None:
    """Return the id of the course that a class is, or None for any other text."""
    return _number(text, "class")


def read_course_id(text: str) -> int | None:
    """Return the id of the first course of a course of OneRoster, or None for any other text."""
    return _number(text, "course")


def read_session_id(text: str) -> SessionKey | None:
    """Return the key of an academic session, or None for any other text."""
    if text == NO_TERM:
        return SessionKey("schoolYear", 0)
    for prefix, type in SESSION_PREFIXES.items():
        if (id := _number(text, prefix)) is not None:
            return SessionKey(type, id)
    return None


def read_enrollment_id(text: str) -> EnrollmentKey | None:
    """Return the key of an enrollment, or None for any other text."""
    match = _ENROLLMENT.fullmatch(text)
    if match is None:
        return None
    key = EnrollmentKey(match[3], int(match[1]), int(match[2]))
    return key if enrollment_id(key) == text else None
