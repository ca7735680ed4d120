"""Save the ledger to the tables: the final row of each key once, and all events in order."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import starmap
from typing import Any, NamedTuple

from service.registrar.application import Group
from service.registrar.courses import COURSE
from service.registrar.instructors import INSTRUCTOR
from service.registrar.ledger import Written
from service.registrar.resources import ResourceType, Row, sourced_id_of
from service.registrar.students import STUDENT, names_of
from service.registrar.terms import TERM
from service.registrar.unit_of_work import Flush
from sql import (
    Connection,
    course_instructors,
    courses,
    enrollments,
    equivalences,
    exports,
    feed,
    grades,
    holds,
    idempotency_keys,
    imports,
    lost_requirements,
    merged_students,
    overrides,
    passed_codes,
    privacy,
    refusals,
    requirements,
    tombstones,
)
from sql.course_instructors import CourseInstructor
from sql.courses import Course, ReservedSeats, Seats
from sql.enrollments import Enrollment, Pair
from sql.equivalences import Equivalence, EquivalentCode
from sql.grades import NumberedGrade
from sql.holds import Hold
from sql.lost_requirements import LostRequirement
from sql.merged_students import Moved
from sql.overrides import Override
from sql.passed_codes import PassedCode
from sql.requirements import Requirement
from sql.students import Student
from sql.tombstones import Tombstone


async def save(connection: Connection, written: Written) -> None:
    """Write everything, by statements whose number does not grow with the changes."""
    await _save_resources(connection, TERM, written.terms)
    if written.merged.saved:
        await _move_rows(connection, written)
    # Delete first: another row may use the address or the code of a deleted row.
    await _delete_resources(connection, STUDENT, written.students)
    await _save_resources(connection, STUDENT, written.students)
    await _delete_resources(connection, COURSE, written.courses)
    await _save_resources(connection, COURSE, written.courses)
    # The deletion of a course lets its instructors be deleted.
    await _delete_resources(connection, INSTRUCTOR, written.instructors)
    await _save_resources(connection, INSTRUCTOR, written.instructors)
    if written.teaching.saved:
        await _save_teaching(connection, written.teaching)
    # Delete terms last, since their courses must leave them first. So a new term with the code of a deleted one makes
    # the batch fail, and is then created in a transaction of its own.
    await _delete_resources(connection, TERM, written.terms)
    if written.holds.saved:
        await holds.save_holds(connection, [*written.holds.saved.values()])
    if written.overrides.saved:
        await overrides.save_overrides(connection, [*written.overrides.saved.values()])
    if written.requirements.saved:
        await _save_requirements(connection, written.requirements.saved)
    if written.equivalences.before:
        await _save_equivalences(connection, written.equivalences, written.now)
    for scale in written.grade_scales.saved.values():
        await grades.clear_grades(connection)
        if scale.grades:
            await grades.add_grades(connection, [NumberedGrade(rank, *each) for rank, each in enumerate(scale.grades)])
    if written.answers:
        await idempotency_keys.add_idempotency_keys(connection, written.answers)
    await save_enrollments(connection, written)
    if written.reserved_seats.saved:
        counters = [(id, json.dumps(taken)) for id, taken in written.reserved_seats.saved.items()]
        await courses.set_reserved_seats(connection, [*starmap(ReservedSeats, counters)])
    if written.merged.saved:
        await _save_times_of_moved(connection, written)
    await _save_passed_codes(connection, written.passed_codes)
    await _save_lost_requirements(connection, written.lost_requirements)
    # The texts about a merged student stay: they are about the other one now.
    if gone := [id for id in written.students.removed if id not in written.merged.saved]:
        deleted = [written.students.before[id] for id in gone]
        await erase_texts(connection, [student for student in deleted if student is not None])
    await _save_tombstones(connection, written)


async def _save_tombstones(connection: Connection, written: Written) -> None:
    """Save what was deleted. The sourced id of a deleted student is kept, until the sweep deletes it."""
    kinds = (
        (STUDENT, written.students),
        (INSTRUCTOR, written.instructors),
        (COURSE, written.courses),
        (TERM, written.terms),
    )
    rows = [
        Tombstone(resource.name, id, sourced_id_of(row), written.now)
        for resource, flush in kinds
        for id in flush.removed
        if (row := flush.before[id]) is not None
    ]
    if rows:
        await tombstones.add_tombstones(connection, rows)


async def _move_rows(connection: Connection, written: Written) -> None:
    """Save which students were merged, and move the rows that would be deleted with them."""
    merged = [*written.merged.saved.values()]
    moved = [Moved(row.student_id, row.merged_into) for row in merged]
    await merged_students.save_merged_students(connection, merged)
    await merged_students.move_holds(connection, moved)
    await merged_students.move_overrides(connection, moved)
    await merged_students.move_refusals(connection, moved)
    await merged_students.delete_merged_enrollments(connection, [row.student_id for row in moved])


async def _save_times_of_moved(connection: Connection, written: Written) -> None:
    """Save when the students of new rows joined, unless it was now: only rows of duplicates are that old."""
    new, _ = _new_and_changed(written.enrollments)
    if moved := [row for row in new if row.joined_at != written.now]:
        await enrollments.update_enrollments(connection, moved)


async def _save_passed_codes(connection: Connection, flush: Flush[tuple[int, int], str]) -> None:
    if flush.removed:
        await passed_codes.clear_passed_codes(connection, [*starmap(Pair, flush.removed)])
    if flush.saved:
        rows = [PassedCode(*key, code) for key, code in flush.saved.items()]
        await passed_codes.set_passed_codes(connection, rows)


async def _save_lost_requirements(connection: Connection, flush: Flush[tuple[int, int], bool]) -> None:
    rows = [LostRequirement(*key, lost) for key, lost in flush.saved.items()]
    rows += [LostRequirement(*key, False) for key in flush.removed]
    if rows:
        await lost_requirements.set_lost_requirements(connection, rows)


async def save_enrollments(connection: Connection, written: Written) -> None:
    """Write the enrollments, the seat counters and the events: everything, if ``takes_one_statement``."""
    if written.enrollments.saved or written.enrollments.removed:
        new, changed = _new_and_changed(written.enrollments)
        if changed:
            await enrollments.update_enrollments(connection, changed)
        seats = _counters(written.courses)
        if not written.one_table_each:
            await enrollments.insert_enrollments(connection, new, written.now, seats=seats, events=written.events)
            return
        if new:
            await enrollments.add_enrollments(connection, new, written.now)
        if seats:
            await courses.set_seats(connection, seats)
    if written.events:
        await feed.append_events(connection, written.events, written.now)


class ErasedTexts(NamedTuple):
    """The rows whose texts were erased."""

    holds: list[Hold]
    overrides: list[Override]
    events: list[int]


async def erase_texts(connection: Connection, students: Sequence[Student]) -> ErasedTexts:
    """Erase the texts about students everywhere but in their own rows: whatever stores such a text belongs here.

    Everything that was decided about the students must have been written before.
    """
    ids = [student.id for student in students]
    names = [name for each in students for name in names_of(each)]
    for duplicate in await merged_students.load_duplicates(connection, ids):
        ids.append(duplicate.student_id)
        names += json.loads(duplicate.names or "[]")
    await merged_students.erase_merged_students(connection, ids)
    # Not counted as texts: the answer to an erasure itself is stored too.
    await idempotency_keys.erase_idempotency_keys(connection, ids)
    await refusals.erase_refusals(connection, ids)
    await tombstones.erase_tombstones(connection, ids)
    await imports.erase_import_rows(connection, ids, names)
    await imports.erase_source_rows(connection, ids)
    # Their files hold everybody's data.
    await exports.expire_exports(connection)
    return ErasedTexts(
        await privacy.erase_holds(connection, ids),
        await privacy.erase_overrides(connection, ids),
        await privacy.redact_events(connection, ids, names),
    )


def takes_one_statement(written: Written) -> bool:
    """Return whether one statement saves everything: new rows with their seats and events, or nothing at all."""
    return (
        len(written.events) == len(written.enrollments.saved)
        and not any(written.enrollments.before.values())
        and not written.courses.removed
        and not written.answers
        and all(_only_seats_changed(written.courses, row) for row in written.courses.saved.values())
        and not any(
            flush.before
            for flush in (
                written.students,
                written.terms,
                written.instructors,
                written.teaching,
                written.holds,
                written.overrides,
                written.requirements,
                written.equivalences,
                written.grade_scales,
                written.reserved_seats,
                written.passed_codes,
                written.lost_requirements,
                written.merged,
            )
        )
    )


async def _delete_resources(connection: Connection, resource: ResourceType[Row, Any], flush: Flush[int, Row]) -> None:
    if flush.removed:
        await resource.delete(connection, flush.removed)


async def _save_resources(connection: Connection, resource: ResourceType[Row, Any], flush: Flush[int, Row]) -> None:
    if saved := [row for row in flush.saved.values() if not _only_seats_changed(flush, row)]:
        await resource.save(connection, saved)


async def _save_teaching(connection: Connection, flush: Flush[int, tuple[CourseInstructor, ...]]) -> None:
    changed = [
        row for course_id, rows in flush.saved.items() for row in sorted({*rows} - {*(flush.before[course_id] or ())})
    ]
    await course_instructors.save_course_instructors(connection, changed)


async def _save_requirements(connection: Connection, changed: Mapping[int, tuple[Group, ...]]) -> None:
    await requirements.clear_requirements(connection, sorted(changed))
    rows = [
        Requirement(course_id, group.kind, number, code, group.min_grade, group.in_progress)
        for course_id, groups in changed.items()
        for number, group in enumerate(groups, start=1)
        for code in group.codes
    ]
    if rows:
        await requirements.add_requirements(connection, rows)


async def _save_equivalences(connection: Connection, flush: Flush[int, Equivalence], now: datetime) -> None:
    """Delete first: a new set may have a code of a deleted one."""
    if flush.removed:
        await equivalences.delete_equivalences(connection, flush.removed)
    if flush.saved:
        await equivalences.add_equivalences(connection, [*flush.saved], now)
        codes = [EquivalentCode(id, code) for id, row in flush.saved.items() for code in row.codes]
        await equivalences.add_equivalent_codes(connection, codes)


def _new_and_changed(flush: Flush[tuple[int, int], Enrollment]) -> tuple[list[Enrollment], list[Enrollment]]:
    """Split rows into new ones, all of whose times are now, and changed ones."""
    new: list[Enrollment] = []
    changed: list[Enrollment] = []
    for key, row in flush.saved.items():
        (new if flush.before[key] is None else changed).append(row)
    return new, changed


def _counters(flush: Flush[int, Course]) -> list[Seats]:
    """Return the counters of the courses that changed only in their seats."""
    return [
        Seats(course.id, course.seats_taken, course.waitlisted)
        for course in flush.saved.values()
        if _only_seats_changed(flush, course)
    ]


def _only_seats_changed(flush: Flush[int, Row], row: Row) -> bool:
    """Return whether only the seats of an existing row have changed: any other change raises its version."""
    before = flush.before[row.id]
    return before is not None and before.version == row.version
