"""The kinds of objects that OneRoster lists: how each is read, written and found by its sourcedId."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from service import oneroster_ids as ids
from service.oneroster.fields import Kind
from service.oneroster.filters import Filter, is_storable
from service.oneroster.objects import Writer
from sql import Connection
from sql.oneroster import (
    RosterUser,
    list_roster_classes,
    list_roster_courses,
    list_roster_enrollments,
    list_roster_sessions,
    list_roster_users,
)

ROLES: Final = ("student", "teacher")
SESSION_TYPES: Final = ("gradingPeriod", "schoolYear", "term")

Narrowing: TypeAlias = Mapping[str, object]
"""Parameters of the statement of a list that narrow it."""

Narrow: TypeAlias = Callable[[Connection, str], Awaitable[Narrowing | None]]
"""Return the parameters that limit a list to the rows with a value; None if there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A kind of object. Its list has the order of the keys of its rows."""

    kind: Kind
    list: Callable[..., Awaitable[Sequence[Any]]]
    everything: Callable[[], Narrowing]
    """Returns the parameters of the statement that select all rows, except those that every statement has."""
    key_names: tuple[str, ...]
    """The parameters that exclude the rows up to a key."""
    first_key: tuple[object, ...]
    """A key before all others."""
    key_of: Callable[[Any], tuple[object, ...]]
    write: Callable[[Writer, Any], Mapping[str, object]]
    exact: Mapping[str, Narrow]
    """How to find the rows in which the field at a path has a value."""
    named: frozenset[str] = frozenset()
    """The paths of fields that equal one of the names of a user."""

    async def read(
        self,
        connection: Connection,
        scope: Narrowing,
        chosen: Filter,
        *,
        after: tuple[object, ...],
        limit: int,
        offset: int,
        sort: tuple[str, ...] | None = None,
        descending: bool = False,
        counted: bool = False,
    ) -> Sequence[Any]:
        """Return a page of rows, those after a key, with their number before and after it if they are ``counted``."""
        return await self.list(
            connection,
            **{**self.everything(), **scope},
            **dict(zip(self.key_names, after, strict=True)),
            **({"named": chosen.named} if self.named else {}),
            limit=limit,
            offset=offset,
            deleted=chosen.deleted,
            modified_from=chosen.modified_from,
            modified_until=chosen.modified_until,
            condition=chosen.condition,
            sort=None if sort is None else [*sort],
            descending=descending,
            counted=counted,
        )

    async def narrow(self, connection: Connection, scope: Narrowing, exact: Mapping[str, str]) -> Narrowing | None:
        """Return the parameters that limit a list further, to the rows with the values of some fields; None if there are none."""
        narrowed = dict(scope)
        for path, value in exact.items():
            found = await self.exact[path](connection, value) if is_storable(value) else None
            for name, wanted in ({} if found is None else found).items():
                given = narrowed.get(name, wanted)
                if isinstance(wanted, list) and isinstance(given, list):
                    narrowed[name] = [each for each in given if each in wanted]
                elif given == wanted:
                    narrowed[name] = wanted
                else:
                    return None
            if found is None:
                return None
        return narrowed

    async def find(self, connection: Connection, scope: Narrowing, sourced_id: str) -> Any | None:
        """Return the row with a sourcedId, or None."""
        found = await self.narrow(connection, scope, {"sourcedId": sourced_id})
        if found is None:
            return None
        rows = await self.read(connection, found, Filter(), after=self.first_key, limit=1, offset=0)
        return rows[0] if rows else None


async def find_user(connection: Connection, sourced_id: str, roles: Sequence[str] = ROLES) -> RosterUser | None:
    """Return the user with a sourced id and one of some roles, or None."""
    row: RosterUser | None = await USERS.find(connection, {"roles": [*roles]}, sourced_id)
    return row


def _by(name: str, read: Callable[[str], object | None]) -> Narrow:
    """Return how to find rows by a sourcedId, of which ``read`` returns the value of a parameter."""

    async def narrow(_connection: Connection, value: str) -> Narrowing | None:
        id = read(value)
        return None if id is None else {name: id}

    return narrow


def _by_list(name: str) -> Narrow:
    async def narrow(_connection: Connection, value: str) -> Narrowing:
        return {name: [value]}

    return narrow


async def _by_user(connection: Connection, value: str) -> Narrowing | None:
    user = await find_user(connection, value)
    return None if user is None or user.deleted else {"role": user.role, "person_id": user.id}


async def _by_session(_connection: Connection, value: str) -> Narrowing | None:
    key = ids.read_session_id(value)
    return None if key is None else {"types": [key.type], "session_id": key.id}


async def _by_enrollment(_connection: Connection, value: str) -> Narrowing | None:
    key = ids.read_enrollment_id(value)
    return None if key is None else key._asdict()


def _term_id(value: str) -> int | None:
    """Return the id of a term in which classes are, or 0 for no term; None for any other sourcedId."""
    key = ids.read_session_id(value)
    return None if key is None or key.type == "gradingPeriod" else key.id


USERS: Final = Resource(
    kind="user",
    list=list_roster_users,
    everything=lambda: {"roles": [*ROLES], "sourced_id": None, "class_id": None},
    key_names=("after",),
    first_key=("",),
    key_of=lambda row: (row.sourced_id,),
    write=Writer.user,
    exact={"sourcedId": _by("sourced_id", str), "role": _by_list("roles"), "roles.role": _by_list("roles")},
    named=frozenset({"username", "identifier", "email"}),
)

CLASSES: Final = Resource(
    kind="class",
    list=list_roster_classes,
    everything=lambda: dict.fromkeys(("class_id", "first_id", "term_id", "student_id", "instructor_id")),
    key_names=("after_id",),
    first_key=(0,),
    key_of=lambda row: (row.id,),
    write=Writer.class_,
    exact={
        "sourcedId": _by("class_id", ids.read_class_id),
        "course.sourcedId": _by("first_id", ids.read_course_id),
        "terms.sourcedId": _by("term_id", _term_id),
    },
)

COURSES: Final = Resource(
    kind="course",
    list=list_roster_courses,
    everything=lambda: {"course_id": None},
    key_names=("after_id",),
    first_key=(0,),
    key_of=lambda row: (row.id,),
    write=Writer.course,
    exact={"sourcedId": _by("course_id", ids.read_course_id)},
)

ENROLLMENTS: Final = Resource(
    kind="enrollment",
    list=list_roster_enrollments,
    everything=lambda: dict.fromkeys(("role", "person_id", "course_id")),
    key_names=("after_person_id", "after_course_id", "after_role"),
    first_key=(0, 0, ""),
    key_of=lambda row: (row.person_id, row.course_id, row.role),
    write=Writer.enrollment,
    exact={
        "sourcedId": _by_enrollment,
        "role": _by("role", str),
        "class.sourcedId": _by("course_id", ids.read_class_id),
        "user.sourcedId": _by_user,
    },
)

SESSIONS: Final = Resource(
    kind="academicSession",
    list=list_roster_sessions,
    everything=lambda: {"types": [*SESSION_TYPES], "session_id": None, "year": datetime.now(UTC).year},
    key_names=("after_type", "after_id"),
    first_key=("", 0),
    key_of=lambda row: (row.type, row.id),
    write=Writer.session,
    exact={"sourcedId": _by_session, "type": _by_list("types")},
)
