"""What a decision needs loaded, and the exception that asks for it."""

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from sql import Connection
from sql.enrollments import Enrollment
from sql.passed_codes import FormerCode

if TYPE_CHECKING:
    from service.registrar.changes import Origin
    from service.registrar.resources import ResourceType

ReserveIds: TypeAlias = Callable[[Connection, int], Awaitable[list[int]]]
"""A statement that takes ids from a sequence; it also names that sequence."""


@dataclass(slots=True)
class ResourceNeeds:
    """The rows of one resource type that changes name, and the unique keys that they want to have."""

    ids: set[int] = field(default_factory=set)
    deleted: set[int] = field(default_factory=set)
    external_ids: list[str] = field(default_factory=list)
    created: list[Mapping[str, Any]] = field(default_factory=list)
    """The fields of rows to create or replace."""
    edited: list[tuple[int, Mapping[str, Any]]] = field(default_factory=list)


@dataclass(slots=True)
class Relaxed:
    """Courses and terms that a change has made easier to get into: who is blocked there must be judged again.

    ``courses``: the students waitlisted for them. ``members``: the waitlist places of the students who are in them.
    ``terms`` and ``members_of_terms``: the same for all courses of terms. ``students``: the waitlist places of students.
    ``reopened_terms``: the terms in which somebody may be promoted who could not be judged while the term was closed.
    ``former_codes``: the codes that courses had, which those keep who have completed them.
    ``due``: the students whose ``recheck_at`` has come. Promotions that follow have the same ``origin``.
    """

    origin: "Origin"
    courses: set[int] = field(default_factory=set)
    members: set[int] = field(default_factory=set)
    terms: set[int] = field(default_factory=set)
    members_of_terms: set[int] = field(default_factory=set)
    students: set[int] = field(default_factory=set)
    reopened_terms: set[int] = field(default_factory=set)
    former_codes: list[FormerCode] = field(default_factory=list)
    due: bool = False


@dataclass(slots=True)
class Needs:
    """What has to be loaded.

    ``students`` with their transcripts, ``pairs`` of a student and a course in any status, ``courses`` with terms and
    requirements, ``definitions`` of courses that students have, the next unjudged students of ``waitlists``, the
    ``override_holders`` among the students waitlisted for courses, the waitlist ``positions`` of pairs, the ``rosters``
    of courses, ``holds`` and ``overrides`` by id, and how many new ids of each sequence.
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
    ids: Counter[ReserveIds] = field(default_factory=Counter)
    resources: "dict[ResourceType[Any, Any], ResourceNeeds]" = field(default_factory=dict)
    relaxed: Relaxed | None = None

    def add_waitlisted(self, row: Enrollment) -> None:
        """Add what a waitlisted student is judged by, with the courses that a swap drops for the seat."""
        self.students.add(row.student_id)
        self.courses.add(row.course_id)
        for dropped_id in json.loads(row.swap_drops or "[]"):
            self.pairs.add((row.student_id, dropped_id))
            self.courses.add(dropped_id)

    def resource(self, resource: "ResourceType[Any, Any]") -> ResourceNeeds:
        """Return what is needed of one resource type, to be added to."""
        return self.resources.setdefault(resource, ResourceNeeds())


class NotLoaded(Exception):
    """A decision needs rows that are not in memory yet.

    Whoever decides rolls back to the last commit, loads what is needed, and decides on from there.
    """

    def __init__(self, needs: Needs) -> None:
        self.needs = needs
