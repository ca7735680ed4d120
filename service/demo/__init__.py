"""Fill an empty database with a believable campus, through the registrar, for ``python -m service demo``."""

import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar

from service.check import check
from service.database import Database
from service.demo.campus import PlannedCourse, PlannedStudent, Size, last_and_next_term, plan
from service.errors import DomainError
from service.registrar import Registrar
from service.registrar.changes import Change, Moved, Origin, Outcome, Result
from service.registrar.courses import COURSE, CourseFields, SetRequirements
from service.registrar.enrollments import Complete, Drop, Enroll, Swap
from service.registrar.holds import PlaceHold
from service.registrar.resources import Create, Edit
from service.registrar.students import STUDENT
from service.registrar.terms import TERM, TermFields
from service.settings import Settings
from service.terminal import show_progress
from sql.courses import list_courses
from sql.feed import get_epoch, list_events
from sql.students import list_students
from sql.terms import list_terms

Answer = TypeVar("Answer")

ORIGIN = Origin(request_id="demo", actor="demo")
CHANGES_PER_BATCH = 300
"""Changes in one transaction: enough to be fast, while a transaction takes well under a second."""
MAX_COURSES = 1_000
"""Courses to search for a good example: more than the large campus has."""
EVENTS_PER_PAGE = 5_000
"""Events read at once."""


@dataclass(slots=True)
class Day:
    """The outcomes of a registration day."""

    requests: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)

    def count(self, outcomes: Iterable[Outcome]) -> None:
        """Count the outcomes of changes; raise an outcome that is an error but not a refusal."""
        for outcome in outcomes:
            self.requests += 1
            if isinstance(outcome, DomainError):
                self.refusals.update(error.code for error in outcome.errors)
            elif isinstance(outcome, Exception):
                raise outcome
            elif isinstance(outcome, tuple):
                self.outcomes.update(result.outcome for result in outcome)
                self.refusals.update(refusal.code for result in outcome for refusal in _refusals(result))
            elif isinstance(outcome, Moved):
                self.outcomes[outcome.outcome] += 1


def _refusals(result: Result) -> Sequence[Any]:
    return result.refusals


async def fill(settings: Settings, size: Size, *, again: bool = False) -> int:
    """Create a campus, let its students register, and check it; return the exit status.

    A database that is not empty stays unchanged, which is an error unless ``again`` is true.
    """
    database = Database(settings)
    await database.open()
    try:
        async with database.reading() as connection:
            if (
                await list_students(connection, 0, 1)
                or (await list_courses(connection, 0, 1, 1))[0].items
                or await list_terms(connection, 0, 1)
            ):
                if again:
                    return 0
                print("error: the database is not empty; the demo needs an empty database", file=sys.stderr)
                return 1
        registrar = Registrar(database, settings)
        try:
            await _fill(database, registrar, size)
        finally:
            await registrar.close()
    finally:
        await database.close()
    return await check(settings)


async def _fill(database: Database, registrar: Registrar, size: Size) -> None:
    campus = plan(size)
    last_term, next_term = last_and_next_term(datetime.now(UTC).date())
    # Nobody can enroll in a term that is over: the last term ends after its courses are completed.
    last_id, last = await _create_term(registrar, {**last_term, "ends_on": next_term["ends_on"]}, campus.last)
    _, next_ = await _create_term(registrar, next_term, campus.next)
    created = await _made(
        registrar, (Create(origin=ORIGIN, resource=STUDENT, fields=each.fields) for each in campus.students)
    )
    students = list(zip((student.id for student in created), campus.students, strict=True))
    await _made(registrar, _past(students, last))
    ended = {"ends_on": last_term["ends_on"]}
    await registrar.submit(Edit(origin=ORIGIN, resource=TERM, id=last_id, values=ended))
    async with database.reading() as connection:
        before = (await get_epoch(connection)).position
    day = Day()
    started = time.perf_counter()
    for wave in (_holds_and_wishes(students, next_), _second_thoughts(students, next_)):
        async for outcomes in _submitted(registrar, wave):
            day.count(outcomes)
    day.seconds = time.perf_counter() - started
    promoted = await _count_promoted(database, before)
    print(f"{len(students)} students, {len(campus.next)} courses; a registration day:\n")
    _print_table(day, promoted)


async def _create_term(
    registrar: Registrar, fields: TermFields, planned: Sequence[PlannedCourse]
) -> tuple[int, dict[str, int]]:
    """Create a term with its courses, and return its id and theirs by code."""
    term = await registrar.submit(Create(origin=ORIGIN, resource=TERM, fields=fields))
    courses = await _made(
        registrar,
        (Create(origin=ORIGIN, resource=COURSE, fields=_in_term(each.fields, term.id)) for each in planned),
    )
    ids = {course.code: course.id for course in courses}
    required = (
        SetRequirements(origin=ORIGIN, course_id=ids[each.code], groups=each.groups) for each in planned if each.groups
    )
    await _made(registrar, required)
    return term.id, ids


def _in_term(fields: CourseFields, term_id: int) -> CourseFields:
    return {**fields, "term_id": term_id}


def _past(students: Sequence[tuple[int, PlannedStudent]], last: dict[str, int]) -> Iterable[Change[object]]:
    for id, student in students:
        if not student.passed:
            continue
        course_ids = tuple(last[code] for code in student.passed)
        yield Enroll(origin=ORIGIN, student_id=id, course_ids=course_ids)
        for course_id in course_ids:
            yield Complete(origin=ORIGIN, student_id=id, course_id=course_id, passed=True)


def _holds_and_wishes(
    students: Sequence[tuple[int, PlannedStudent]], next_: dict[str, int]
) -> Iterable[Change[object]]:
    for id, student in students:
        if student.on_hold:
            yield PlaceHold(origin=ORIGIN, student_id=id, reason="Library fees", blocks_enroll=True, blocks_drop=False)
        course_ids = tuple(next_[code] for code in student.wishes)
        yield Enroll(origin=ORIGIN, student_id=id, course_ids=course_ids, mode="partial", on_full="waitlist")


def _second_thoughts(students: Sequence[tuple[int, PlannedStudent]], next_: dict[str, int]) -> Iterable[Change[object]]:
    for id, student in students:
        first = next_[student.wishes[0]]
        if student.second_thought == "drop":
            yield Drop(origin=ORIGIN, student_id=id, course_id=first)
        elif student.second_thought == "swap":
            yield Swap(origin=ORIGIN, student_id=id, drop=(first,), add=(next_[student.swap_for],), on_full="waitlist")


async def _submitted(
    registrar: Registrar, changes: Iterable[Change[Answer]]
) -> AsyncIterator[list[Answer | Exception]]:
    remaining, submitted = iter(changes), 0
    while batch := list(islice(remaining, CHANGES_PER_BATCH)):
        yield await registrar.submit_all(batch)
        submitted += len(batch)
        show_progress(f"{submitted:,} changes, the last one: {type(batch[-1]).__name__}")
    show_progress()


async def _made(registrar: Registrar, changes: Iterable[Change[Answer]]) -> list[Answer]:
    """Make changes and return their answers; raise the first refusal."""
    made: list[Answer] = []
    async for outcomes in _submitted(registrar, changes):
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
            made.append(outcome)
    return made


async def _count_promoted(database: Database, after: int) -> int:
    promoted = 0
    async with database.reading() as connection:
        while events := await list_events(connection, after, EVENTS_PER_PAGE):
            promoted += sum(event.type == "enrollment.promoted" for event in events)
            after = events[-1].position
    return promoted


def _print_table(day: Day, promoted: int) -> None:
    rows = [("requests", day.requests), *((name, day.outcomes[name]) for name in ("enrolled", "waitlisted"))]
    rows += [(f"refused: {code}", count) for code, count in sorted(day.refusals.items())]
    rows += [(name, day.outcomes[name]) for name in ("dropped", "kept")]
    rows.append(("promoted", promoted))
    for name, count in rows:
        print(f"{name:<30}{count:>10,}")
    print(f"{'seconds':<30}{day.seconds:>10.1f}")
    print(f"{'requests/s':<30}{day.requests / day.seconds:>10,.0f}\n")


async def find_calls(settings: Settings) -> tuple[str, ...]:
    """Return three example calls to try on a demo, with ``{url}`` for the address of the service."""
    database = Database(settings)
    await database.open()
    try:
        async with database.reading() as connection:
            students = await list_students(connection, 0, 1)
            [page] = await list_courses(connection, 0, MAX_COURSES, MAX_COURSES)
    finally:
        await database.close()
    courses = json.loads(page.items or "[]")
    if not students or not courses:
        return ()
    student_id = students[0].id
    course_id = max(courses, key=lambda course: course["waitlisted"])["id"]
    body = json.dumps({"course_ids": [course_id]})
    return (
        f"curl -s {{url}}/students/{student_id}/courses",
        f"curl -s '{{url}}/courses/{course_id}/students?status=waitlisted'",
        f"curl -s -X POST {{url}}/students/{student_id}/enroll -H 'Content-Type: application/json' -d '{body}'",
    )
