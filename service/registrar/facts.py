"""What stands between the ledger and the tables: loading the facts that changes name, recording what became of them.

Both are set-based: the number of statements does not grow with the changes.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, starmap
from typing import Any, Generic

from service.registrar.catalog import MOST_EDITS, Catalog
from service.registrar.changes import (
    Cancel,
    Change,
    Complete,
    Create,
    Delete,
    Drop,
    Edit,
    EndHold,
    EndOverride,
    Enroll,
    GrantOverride,
    Group,
    PlaceHold,
    Replace,
    Require,
    Swap,
    Sweep,
    Thing,
)
from service.registrar.ledger import Delta, Entries, Ledger, Line, Missing
from service.registrar.records import COURSE, STUDENT, TERM, Kind
from service.registrar.seats import has_free_seat
from sql import Connection, courses, enrollments, feed, holds, overrides, requirements, students, terms
from sql.courses import Course, Seats
from sql.enrollments import Enrollment
from sql.holds import Hold
from sql.overrides import Override
from sql.requirements import Requirement
from sql.students import Student
from sql.terms import Term

WAITERS = 20
"""How many of a line are read at once: the first of them mostly gets the seat."""


@dataclass(frozen=True, slots=True)
class Store(Generic[Thing]):
    """The statements of one kind of thing."""

    thing: type[Thing]
    kind: Kind[Thing]
    load: Callable[[Connection, list[int]], Awaitable[list[Thing]]]
    match: Callable[[Connection, list[str], list[Mapping[str, Any]]], Awaitable[list[Thing]]]
    """Reads those with an external id of the list, or with another unique key of the values."""
    load_in_use: Callable[[Connection, Ledger, list[int]], Awaitable[list[int]]]
    save: Callable[[Connection, list[Thing]], Awaitable[None]]
    delete: Callable[[Connection, list[int]], Awaitable[None]]


async def open_ledger(connection: Connection, changes: Sequence[Change[Any]], catalog: Catalog) -> Ledger:
    """Read the clock, the newest position and the things that these changes make or edit; call it under the lock."""
    head = await feed.load_head(connection)
    await _refresh(connection, catalog, head)
    ledger = Ledger(head, catalog)
    await _load_things(connection, ledger, STUDENTS, changes)
    await _load_things(connection, ledger, COURSES, changes)
    await _load_things(connection, ledger, TERMS, changes)
    if placed := sum(isinstance(change, PlaceHold) for change in changes):
        await _reserve_ids(connection, ledger, Hold, placed)
    if granted := sum(isinstance(change, GrantOverride) for change in changes):
        await _reserve_ids(connection, ledger, Override, granted)
    return ledger


async def _refresh(connection: Connection, catalog: Catalog, head: feed.Head) -> None:
    """Bring the catalog to the newest event: forget what others have changed since, and what is of another history."""
    if catalog.is_full():
        catalog.clear()
    if catalog.is_at(head):
        return
    edits: list[feed.Edit] = []
    if catalog.occurred_at is not None and catalog.request_id is not None:
        edits = await feed.load_edits(connection, catalog.position, catalog.occurred_at, catalog.request_id, MOST_EDITS)
    catalog.follow(edits, head)


async def load_named(connection: Connection, ledger: Ledger, changes: Sequence[Change[Any]]) -> None:
    """Read all that these changes are sure to ask for."""
    if not changes:
        return
    await load(connection, ledger, _named(changes))
    if lines := _lines_that_may_move(ledger):
        await load(connection, ledger, Missing(lines=lines))


def _named(changes: Sequence[Change[Any]]) -> Missing:
    """Say what changes are sure to ask for, so that it is loaded in one go."""
    named = Missing()
    for change in changes:
        match change:
            case Enroll(student_id=student_id, course_ids=course_ids):
                named.students.add(student_id)
                named.courses.update(course_ids)
                named.pairs.update([(student_id, course_id) for course_id in course_ids])
            case Swap(student_id=student_id, drop=drop, add=add):
                named.students.add(student_id)
                named.courses.update(drop, add)
                named.pairs.update([(student_id, course_id) for course_id in (*drop, *add)])
            case Drop() | Complete() | GrantOverride():
                named.students.add(change.student_id)
                named.courses.add(change.course_id)
                named.pairs.add((change.student_id, change.course_id))
            case Cancel(course_id=course_id):
                named.courses.add(course_id)
                named.rosters.add(course_id)
                named.waits_of_courses.add(course_id)
            case Require(course_id=course_id):
                named.courses.add(course_id)
            case PlaceHold(student_id=student_id):
                named.students.add(student_id)
            case EndHold(student_id=student_id, hold_id=hold_id):
                named.students.add(student_id)
                named.holds.add(hold_id)
            case EndOverride(student_id=student_id, override_id=override_id):
                named.students.add(student_id)
                named.overrides.add(override_id)
            case Sweep(course_ids=course_ids):
                named.courses.update(course_ids)
            case Edit(thing=thing, id=id) if thing is Course:
                named.courses.add(id)
            case _:
                pass
    return named


async def load(connection: Connection, ledger: Ledger, missing: Missing) -> None:
    """Read what is missing, and what goes with it."""
    for thing in missing.ids:
        await _reserve_ids(connection, ledger, thing, 1)
    await _load_lines(connection, ledger, missing)
    if missing.rosters:
        for row in await enrollments.load_roster(connection, sorted(missing.rosters)):
            ledger.load_enrollment(row)
        ledger.known_rosters |= missing.rosters
    if missing.holds:
        for hold in await holds.find_holds(connection, sorted(missing.holds)):
            ledger.load_hold(hold)
    if missing.overrides:
        for override in await overrides.find_overrides(connection, sorted(missing.overrides)):
            ledger.load_override(override)
    await _load_waits(connection, ledger, missing)
    waited_for = await _load_students(connection, ledger, missing.students - ledger.known_students)
    pairs = missing.pairs - ledger.known_pairs
    if there := sorted([pair for pair in pairs if not ledger.never_had(*pair)]):
        for row in await enrollments.load_enrollments(connection, [*starmap(enrollments.Pair, there)]):
            ledger.load_enrollment(row)
    ledger.known_pairs |= pairs
    await _load_courses(connection, ledger, (missing.courses | missing.rosters | waited_for) - ledger.known_courses)
    await _load_catalog(connection, ledger, missing)


async def _load_lines(connection: Connection, ledger: Ledger, missing: Missing) -> None:
    """Read the next of those who wait for courses, and note that each of them is missing with all that they have."""
    if not missing.lines:
        return
    waiters: dict[int, list[tuple[int, int]]] = {course_id: [] for course_id in missing.lines}
    for row in await enrollments.load_lines(connection, [*missing.lines], [*missing.lines.values()], WAITERS):
        ledger.load_enrollment(row)
        waiters[row.course_id].append((row.place, row.student_id))
        missing.students.add(row.student_id)
        missing.pairs.update((row.student_id, dropped) for dropped in json.loads(row.swap_drops or "[]"))
    for course_id, found in waiters.items():
        line = ledger.lines.setdefault(course_id, Line())
        line.waiters += found
        line.complete = len(found) < WAITERS


def _lines_that_may_move(ledger: Ledger) -> dict[int, int]:
    """Tell whose lines the changes are sure to look at: of courses with a free seat that are asked for or waited for."""
    return {
        course.id: 0
        for course in ledger.courses
        if course.waitlisted and has_free_seat(course) and course.id not in ledger.lines
    }


async def _load_waits(connection: Connection, ledger: Ledger, missing: Missing) -> None:
    """Read who or what waits, so that a change of a course or a term reaches it."""
    if missing.waits_of_courses:
        ledger.waits_of_courses.update({id: set() for id in missing.waits_of_courses})
        for wait in await enrollments.load_waits_of_courses(connection, sorted(missing.waits_of_courses)):
            ledger.waits_of_courses[wait.seated_in].add(wait.waits_for)
    if missing.waits_of_terms:
        ledger.waits_of_terms.update({id: set() for id in missing.waits_of_terms})
        for wait in await enrollments.load_waits_of_terms(connection, sorted(missing.waits_of_terms)):
            ledger.waits_of_terms[wait.seated_in].add(wait.waits_for)
    if missing.insiders:
        ledger.insiders.update({id: set() for id in missing.insiders})
        for insider in await overrides.load_insiders(connection, sorted(missing.insiders), ledger.now):
            ledger.insiders[insider.course_id].add(insider.student_id)
            missing.students.add(insider.student_id)
            missing.pairs.add((insider.student_id, insider.course_id))


async def _load_students(connection: Connection, ledger: Ledger, new: set[int]) -> set[int]:
    """Read students with all that they have, and return the ids of the courses that they wait for."""
    waited_for: set[int] = set()
    if not new:
        return waited_for
    ids = sorted(new)
    held, lifted = [], []
    for row in await enrollments.load_transcripts(connection, ids, ledger.now):
        ledger.load_transcript(row)
        waited_for.update(row.waitlisted or ())
        if row.has_holds:
            held.append(row.student_id)
        if row.has_overrides:
            lifted.append(row.student_id)
    if held:
        for hold in await holds.load_holds(connection, held, ledger.now):
            ledger.load_hold(hold)
    if lifted:
        for override in await overrides.load_overrides(connection, lifted, ledger.now):
            ledger.load_override(override)
    ledger.known_students |= new
    return waited_for


async def _load_courses(connection: Connection, ledger: Ledger, new: set[int]) -> None:
    """Read courses as they are now, seats and all."""
    if not new:
        return
    for course in await courses.load_courses(connection, sorted(new)):
        ledger.courses.load(course.id, course)
    ledger.known_courses |= new


async def _load_catalog(connection: Connection, ledger: Ledger, missing: Missing) -> None:
    """Read what the catalog does not know: what courses require, terms, and what courses are that somebody has.

    Those of all students are read once they count for one: mostly they do for all, or for none.
    """
    catalog = ledger.catalog
    if new := sorted(course.id for course in ledger.courses if course.id not in catalog.requirements):
        required = await requirements.load_requirements(connection, new)
        catalog.requirements.update(dict.fromkeys(new, ()))
        for course_id, rows in groupby(required, lambda row: row.course_id):
            catalog.requirements[course_id] = groups_of(rows)
    wanted = {*missing.terms}
    wanted.update([course.term_id for course in ledger.courses if course.term_id is not None])
    if missing.definitions:
        new = sorted((missing.definitions | ledger.courses_had()) - catalog.definitions.keys())
        for definition in await courses.load_definitions(connection, new):
            catalog.definitions[definition.id] = definition
            if definition.term_id is not None:
                wanted.add(definition.term_id)
    if new := sorted(wanted - catalog.terms.keys() - ledger.known_terms):
        for term in await terms.load_terms(connection, new):
            catalog.terms[term.id] = term
        ledger.known_terms.update(new)


def groups_of(rows: Iterable[Requirement]) -> tuple[Group, ...]:
    """Put the codes of one course together again, group by group."""
    return tuple(
        Group(kind, tuple(row.code for row in members))
        for (_, kind), members in groupby(rows, lambda row: (row.group_number, row.kind))
    )


async def _load_things(
    connection: Connection, ledger: Ledger, store: Store[Thing], changes: Sequence[Change[Any]]
) -> None:
    """Load the things of one kind that changes name by id, by external id, or by a unique key that they want."""
    table = store.kind.table(ledger)
    ours = [change for change in changes if getattr(change, "thing", None) is store.thing]
    if not ours:
        return
    ids = sorted({change.id for change in ours if isinstance(change, Edit | Delete)})
    if ids:
        for thing in await store.load(connection, ids):
            table.load(thing.id, thing)
    values: list[Mapping[str, Any]] = []
    for change in ours:
        if isinstance(change, Create | Replace):
            values.append(change.values)
        elif isinstance(change, Edit):
            standing = table.get(change.id)
            values.append({**({} if standing is None else _keys(standing)), **change.values})
    if values:
        external_ids = [change.external_id for change in ours if isinstance(change, Replace)]
        external_ids += [value["external_id"] for value in values if value.get("external_id") is not None]
        for thing in await store.match(connection, external_ids, values):
            table.load(thing.id, thing)
    external = {getattr(thing, "external_id", None) for thing in table}
    new = sum(isinstance(change, Create) for change in ours)
    new += sum(isinstance(change, Replace) and change.external_id not in external for change in ours)
    if new:
        await _reserve_ids(connection, ledger, store.thing, new)
    if deleted := [change.id for change in ours if isinstance(change, Delete)]:
        ledger.in_use.update((store.thing, id) for id in await store.load_in_use(connection, ledger, deleted))


async def _reserve_ids(connection: Connection, ledger: Ledger, thing: type, count: int) -> None:
    ids = await RESERVE_IDS[thing](connection, count)
    ledger.free_ids[thing] = [*reversed(ids), *ledger.free_ids.get(thing, [])]


RESERVE_IDS: dict[type, Callable[[Connection, int], Awaitable[list[int]]]] = {
    Student: students.reserve_student_ids,
    Course: courses.reserve_course_ids,
    Term: terms.reserve_term_ids,
    Hold: holds.reserve_hold_ids,
    Override: overrides.reserve_override_ids,
}


def _keys(thing: Student | Course | Term) -> dict[str, Any]:
    """Copy what a unique key may be made of: an edit may change one half of it and keep the other."""
    return {name: getattr(thing, name) for name in ("code", "term_id") if hasattr(thing, name)}


async def record(connection: Connection, entries: Entries) -> None:
    """Write what changes left: the final row of each key once, and all events in order."""
    if not entries.events:
        return
    await _save_things(connection, TERMS, entries.terms)
    # What is deleted goes first: others may have its address or code.
    await _delete_things(connection, STUDENTS, entries.students)
    await _save_things(connection, STUDENTS, entries.students)
    await _delete_things(connection, COURSES, entries.courses)
    await _save_things(connection, COURSES, entries.courses)
    # But for a term, which its courses have to leave. A term that takes its code meanwhile has to go alone.
    await _delete_things(connection, TERMS, entries.terms)
    if entries.holds.saved:
        await holds.save_holds(connection, [*entries.holds.saved.values()])
    if entries.overrides.saved:
        await overrides.save_overrides(connection, [*entries.overrides.saved.values()])
    if entries.requirements.saved:
        await _record_requirements(connection, entries.requirements.saved)
    if entries.enrollments.saved:
        entered, moved = _enrollments(entries.enrollments)
        seats = _counters(entries.courses)
        await enrollments.record_moves(
            connection, entered, entries.now, moved=moved, seats=seats, events=entries.events
        )
    else:
        await feed.record_events(connection, entries.events, entries.now)


async def _delete_things(connection: Connection, store: Store[Thing], delta: Delta[int, Thing]) -> None:
    if delta.removed:
        await store.delete(connection, delta.removed)


async def _save_things(connection: Connection, store: Store[Thing], delta: Delta[int, Thing]) -> None:
    if saved := [thing for thing in delta.saved.values() if not _only_seats_moved(delta, thing)]:
        await store.save(connection, saved)


async def _record_requirements(connection: Connection, changed: Mapping[int, tuple[Group, ...]]) -> None:
    await requirements.clear_requirements(connection, sorted(changed))
    rows = [
        Requirement(course_id, group.kind, number, code)
        for course_id, groups in changed.items()
        for number, group in enumerate(groups, start=1)
        for code in group.codes
    ]
    if rows:
        await requirements.add_requirements(connection, rows)


def _enrollments(delta: Delta[tuple[int, int], Enrollment]) -> tuple[list[Enrollment], list[Enrollment]]:
    """Divide rows into those that are new, all times of which are now, and those that there were."""
    entered: list[Enrollment] = []
    moved: list[Enrollment] = []
    for key, row in delta.saved.items():
        (entered if delta.before[key] is None else moved).append(row)
    return entered, moved


def _counters(delta: Delta[int, Course]) -> list[Seats]:
    """List the counters of the courses of which only the seats moved."""
    return [
        Seats(course.id, course.seats_taken, course.waitlisted)
        for course in delta.saved.values()
        if _only_seats_moved(delta, course)
    ]


def _only_seats_moved(delta: Delta[int, Thing], thing: Thing) -> bool:
    """Tell whether nothing else has become of a thing that there was: its version counts everything else."""
    before = delta.before[thing.id]
    return before is not None and before.version == thing.version


async def _match_students(
    connection: Connection, external_ids: list[str], values: list[Mapping[str, Any]]
) -> list[Student]:
    emails = [value["email"].lower() for value in values if "email" in value]
    return await students.match_students(connection, external_ids, emails)


async def _match_courses(
    connection: Connection, external_ids: list[str], values: list[Mapping[str, Any]]
) -> list[Course]:
    term_ids = [value["term_id"] for value in values if value.get("term_id") is not None]
    codes = [value["code"] for value in values if "code" in value]
    return await courses.match_courses(connection, external_ids, term_ids, codes)


async def _match_terms(connection: Connection, _external_ids: list[str], values: list[Mapping[str, Any]]) -> list[Term]:
    return await terms.match_terms(connection, [value["code"] for value in values if "code" in value])


async def _load_students_in_use(connection: Connection, _ledger: Ledger, ids: list[int]) -> list[int]:
    return await enrollments.load_students_in_use(connection, ids)


async def _load_courses_in_use(connection: Connection, _ledger: Ledger, ids: list[int]) -> list[int]:
    return await enrollments.load_courses_in_use(connection, ids)


async def _load_terms_in_use(connection: Connection, ledger: Ledger, ids: list[int]) -> list[int]:
    """Tell which terms have courses that the changes leave alone: the others may have left when it comes to that."""
    return await terms.load_terms_in_use(connection, ids, [course.id for course in ledger.courses])


STUDENTS = Store(
    thing=Student,
    kind=STUDENT,
    load=students.load_students,
    match=_match_students,
    load_in_use=_load_students_in_use,
    save=students.save_students,
    delete=students.delete_students,
)
COURSES = Store(
    thing=Course,
    kind=COURSE,
    load=courses.load_courses,
    match=_match_courses,
    load_in_use=_load_courses_in_use,
    save=courses.save_courses,
    delete=courses.delete_courses,
)
TERMS = Store(
    thing=Term,
    kind=TERM,
    load=terms.load_terms,
    match=_match_terms,
    load_in_use=_load_terms_in_use,
    save=terms.save_terms,
    delete=terms.delete_terms,
)
