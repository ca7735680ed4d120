"""What stands between the ledger and the tables: loading the facts that changes name, recording what became of them.

Both are set-based: the number of statements does not grow with the changes.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from service.registrar.changes import Change, Create, Delete, Drop, Edit, Enroll, Replace, Thing
from service.registrar.ledger import Ledger, Table
from service.registrar.records import COURSE, STUDENT, Kind
from sql import Connection, courses, enrollments, feed, students
from sql.courses import Course, Seats
from sql.students import Student


@dataclass(frozen=True, slots=True)
class Store(Generic[Thing]):
    """The statements of one kind of thing."""

    thing: type[Thing]
    kind: Kind[Thing]
    load: Callable[[Connection, list[int]], Awaitable[list[Thing]]]
    match: Callable[[Connection, list[str], list[Mapping[str, object]]], Awaitable[list[Thing]]]
    """Reads those with an external id of the list, or with another unique key of the values."""
    load_in_use: Callable[[Connection, list[int]], Awaitable[list[int]]]
    reserve_ids: Callable[[Connection, int], Awaitable[list[int]]]
    save: Callable[[Connection, Table[int, Thing]], Awaitable[None]]
    delete: Callable[[Connection, list[int]], Awaitable[None]]


async def load(connection: Connection, changes: Sequence[Change[Any]]) -> Ledger:
    """Read the clock, the newest position and all that these changes name; call it under the lock."""
    ledger = Ledger(await feed.load_head(connection))
    pairs = sorted({pair for change in changes for pair in _pairs(change)})
    if pairs:
        student_ids, course_ids = (list(ids) for ids in zip(*pairs, strict=True))
        for enrollment in await enrollments.load_enrollments(connection, student_ids, course_ids):
            ledger.enrollments.load((enrollment.student_id, enrollment.course_id), enrollment)
    await _load_things(connection, ledger, STUDENTS, changes, {student_id for student_id, _ in pairs})
    await _load_things(connection, ledger, COURSES, changes, {course_id for _, course_id in pairs})
    return ledger


async def record(connection: Connection, ledger: Ledger) -> None:
    """Write what the ledger's changes left: the final row of each key once, and all events in order."""
    if not ledger.events:
        return
    await _record_things(connection, ledger, STUDENTS)
    await _record_things(connection, ledger, COURSES)
    if saved := ledger.enrollments.saved():
        await enrollments.save_enrollments(connection, saved)
    await feed.record_events(connection, ledger.events)


def _pairs(change: Change[Any]) -> list[tuple[int, int]]:
    if isinstance(change, Enroll):
        return [(change.student_id, course_id) for course_id in set(change.course_ids)]
    if isinstance(change, Drop):
        return [(change.student_id, change.course_id)]
    return []


async def _load_things(
    connection: Connection, ledger: Ledger, store: Store[Thing], changes: Sequence[Change[Any]], named: set[int]
) -> None:
    """Load the things of one kind that changes name by id, by external id, or by a unique key that they want."""
    table = store.kind.table(ledger)
    ours = [change for change in changes if getattr(change, "thing", None) is store.thing]
    ids = sorted(named | {change.id for change in ours if isinstance(change, Edit | Delete)})
    if ids:
        for thing in await store.load(connection, ids):
            table.load(thing.id, thing)
    values = [change.values for change in ours if isinstance(change, Create | Edit | Replace)]
    if values:
        external_ids = [change.external_id for change in ours if isinstance(change, Replace)]
        external_ids += [str(value["external_id"]) for value in values if value.get("external_id") is not None]
        for thing in await store.match(connection, external_ids, values):
            table.load(thing.id, thing)
    deleted = [change.id for change in ours if isinstance(change, Delete)]
    standing = {thing.external_id for thing in table if thing.id not in deleted}
    new = sum(isinstance(change, Create) for change in ours)
    new += sum(isinstance(change, Replace) and change.external_id not in standing for change in ours)
    if new:
        ledger.free_ids[store.thing] = (await store.reserve_ids(connection, new))[::-1]
    if deleted:
        ledger.in_use.update((store.thing, id) for id in await store.load_in_use(connection, deleted))


async def _record_things(connection: Connection, ledger: Ledger, store: Store[Thing]) -> None:
    table = store.kind.table(ledger)
    if removed := table.removed():
        await store.delete(connection, removed)
    await store.save(connection, table)


async def _match_students(
    connection: Connection, external_ids: list[str], values: list[Mapping[str, object]]
) -> list[Student]:
    emails = [str(value["email"]).lower() for value in values if "email" in value]
    return await students.match_students(connection, external_ids, emails)


async def _match_courses(
    connection: Connection, external_ids: list[str], _values: list[Mapping[str, object]]
) -> list[Course]:
    return await courses.match_courses(connection, external_ids)


async def _save_students(connection: Connection, table: Table[int, Student]) -> None:
    if saved := table.saved():
        await students.save_students(connection, saved)


async def _save_courses(connection: Connection, table: Table[int, Course]) -> None:
    """Save courses, and of those of which only the seats moved nothing but the counter."""
    edited, counted = [], []
    for course in table.saved():
        loaded = table.loaded(course.id)
        if loaded is not None and loaded.version == course.version:
            counted.append(Seats(course.id, course.seats_taken))
        else:
            edited.append(course)
    if edited:
        await courses.save_courses(connection, edited)
    if counted:
        await courses.save_seats(connection, counted)


STUDENTS = Store(
    thing=Student,
    kind=STUDENT,
    load=students.load_students,
    match=_match_students,
    load_in_use=enrollments.load_students_in_use,
    reserve_ids=students.reserve_student_ids,
    save=_save_students,
    delete=students.delete_students,
)
COURSES = Store(
    thing=Course,
    kind=COURSE,
    load=courses.load_courses,
    match=_match_courses,
    load_in_use=enrollments.load_courses_in_use,
    reserve_ids=courses.reserve_course_ids,
    save=_save_courses,
    delete=courses.delete_courses,
)
