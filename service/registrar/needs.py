"""The rows that a decision needs, and the exception that requests them."""

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from sql import Connection
from sql.enrollments import Enrollment
from sql.idempotency_keys import CallersKey
from sql.passed_codes import FormerCode
from sql.students import Student

if TYPE_CHECKING:
    from service.registrar.changes import Origin
    from service.registrar.resources import ResourceType

ReserveIds: TypeAlias = Callable[[Connection, int], Awaitable[list[int]]]
"""A statement that takes ids from a sequence; it also names that sequence."""


@dataclass(slots=True)
class ResourceNeeds:
    """The rows of one resource type that changes name, and the unique keys that changes want to use."""

    ids: set[int] = field(default_factory=set)
    deleted: set[int] = field(default_factory=set)
    external_ids: list[str] = field(default_factory=list)
    created: list[Mapping[str, Any]] = field(default_factory=list)
    """The fields of rows to create or replace."""
    edited: list[tuple[int, Mapping[str, Any]]] = field(default_factory=list)


@dataclass(slots=True)
class Relaxed:
    """Conditions that a change has relaxed: the students whom they blocked must be judged again.

    ``courses``: the students waitlisted for these courses. ``members``: the waitlist places of the students in them.
    ``terms`` and ``members_of_terms``: the same for all courses of terms, in ``terms`` also of their parts.
    ``students``: all their waitlist places. ``reopened_terms``: terms in which students may be promoted who could not
    be judged while the term was closed. ``former_codes``: the earlier codes of courses, which stay valid for students
    who completed them. ``joined_codes`` have become equivalent, ``parted_codes`` no longer are: the students who have a
    course of these codes. ``min_grades``: the students waitlisted for courses that require a grade. ``reserved``: the
    first student of this course's waitlist whom only reservations block, of these groups if given. ``due``: the
    students whose ``recheck_at`` has passed. The promotions that follow have the same ``origin``.
    """

    origin: "Origin"
    courses: set[int] = field(default_factory=set)
    members: set[int] = field(default_factory=set)
    terms: set[int] = field(default_factory=set)
    members_of_terms: set[int] = field(default_factory=set)
    students: set[int] = field(default_factory=set)
    reopened_terms: set[int] = field(default_factory=set)
    former_codes: list[FormerCode] = field(default_factory=list)
    joined_codes: list[str] = field(default_factory=list)
    parted_codes: list[str] = field(default_factory=list)
    min_grades: bool = False
    reserved: tuple[int, list[str] | None] | None = None
    due: bool = False


@dataclass(slots=True)
class Needs:
    """The rows to load.

    ``students`` with their transcripts, ``pairs`` of a student and a course in any status, ``courses`` with terms and
    requirements, ``definitions`` of the students' courses, the next unjudged students of ``waitlists``, the
    ``override_holders`` among the students waitlisted for courses, the waitlist ``positions`` of pairs, the ``rosters``
    of courses, ``holds`` and ``overrides`` by id, the people with these ``sourced_ids``, the instructors of courses
    (``teaching``), the counters of the ``reserved_seats`` of courses, the answers of ``idempotency_keys``, and the number
    of new ids of each sequence. ``code_sets`` requests the equivalent codes, ``grade_scale`` the grade scale, and
    ``min_grades`` the grades that courses require. ``erased`` is a student whose texts must be erased in the database
    before the decision. ``codes`` requests the courses that require them. ``lost_requirements`` are the students, and
    ``lost_of_courses`` the courses, whose seats that have lost a requirement are needed. ``pause`` requests no rows: other
    requests are served before the decision continues.
    """

    students: set[int] = field(default_factory=set)
    pairs: set[tuple[int, int]] = field(default_factory=set)
    courses: set[int] = field(default_factory=set)
    definitions: set[int] = field(default_factory=set)
    terms: set[int] = field(default_factory=set)
    waitlists: set[int] = field(default_factory=set)
    override_holders: set[int] = field(default_factory=set)
    positions: set[tuple[int, int]] = field(default_factory=set)
    rosters: set[int] = field(default_factory=set)
    holds: set[int] = field(default_factory=set)
    overrides: set[int] = field(default_factory=set)
    sourced_ids: set[str] = field(default_factory=set)
    teaching: set[int] = field(default_factory=set)
    reserved_seats: set[int] = field(default_factory=set)
    idempotency_keys: set[CallersKey] = field(default_factory=set)
    ids: Counter[ReserveIds] = field(default_factory=Counter)
    resources: "dict[ResourceType[Any, Any], ResourceNeeds]" = field(default_factory=dict)
    pause: bool = False
    code_sets: bool = False
    grade_scale: bool = False
    min_grades: bool = False
    codes: set[str] = field(default_factory=set)
    lost_requirements: set[int] = field(default_factory=set)
    lost_of_courses: set[int] = field(default_factory=set)
    partners_of: set[int] = field(default_factory=set)
    """Courses with a free seat, of which the students are needed whom only a corequisite blocks."""
    relaxed: Relaxed | None = None
    erased: Student | None = None
    whole: set[int] = field(default_factory=set)
    """Students of whom all enrollments, holds and overrides are needed, and the duplicates that were merged into them."""
    merged: set[int] = field(default_factory=set)
    """Students who do not exist, and may have been merged into others."""

    @property
    def are_those_of_enrollments(self) -> bool:
        """Whether only students, pairs, positions, courses and the contents of the catalog are needed."""
        return not (
            self.idempotency_keys
            or self.ids
            or self.resources
            or self.waitlists
            or self.override_holders
            or self.rosters
            or self.holds
            or self.overrides
            or self.sourced_ids
            or self.teaching
            or self.reserved_seats
            or self.grade_scale
            or self.min_grades
            or self.lost_requirements
            or self.lost_of_courses
            or self.merged
            or self.writes
        )

    @property
    def writes(self) -> bool:
        """Whether rows are written before the needed ones are loaded."""
        return bool(self.whole or self.partners_of) or self.relaxed is not None or self.erased is not None

    def add_waitlisted(self, row: Enrollment) -> None:
        """Add the rows by which a waitlisted student is judged, with the courses that the student's swap drops."""
        self.students.add(row.student_id)
        self.courses.add(row.course_id)
        for dropped_id in json.loads(row.swap_drops or "[]"):
            self.pairs.add((row.student_id, dropped_id))
            self.courses.add(dropped_id)

    def add_fields(self, fields: Mapping[str, Any]) -> None:
        """Add what the fields of a new resource name: a term, and the people with a sourced id that the caller gives."""
        if (term_id := fields.get("term_id")) is not None:
            self.terms.add(term_id)
        if (sourced_id := fields.get("sourced_id")) is not None:
            self.sourced_ids.add(sourced_id)

    def resource(self, resource: "ResourceType[Any, Any]") -> ResourceNeeds:
        """Return the needs of one resource type, to which the caller adds."""
        return self.resources.setdefault(resource, ResourceNeeds())


class NotLoaded(Exception):
    """A decision needs rows that are not in memory yet.

    The caller rolls back to the last commit, loads ``needs``, and resumes deciding from there.
    """

    def __init__(self, needs: Needs) -> None:
        self.needs = needs
