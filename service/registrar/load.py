"""Load the rows that decisions need into the ledger, by statements whose number does not grow with the rows."""

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, starmap
from typing import Any

from service.registrar.application import CodeSets, Course, GradeScale, Group, code_key
from service.registrar.catalog import MAX_EDITS, Catalog
from service.registrar.changes import Change
from service.registrar.ledger import Ledger, PartnerPlaces, named_keys
from service.registrar.needs import Needs, Relaxed, ResourceNeeds
from service.registrar.resources import Fields, ResourceType, Row, external_id_of
from service.registrar.save import erase_texts, save
from service.registrar.seats import has_free_seat, with_counters
from service.registrar.students import STUDENT
from sql import (
    Connection,
    course_instructors,
    courses,
    enrollments,
    equivalences,
    feed,
    grades,
    holds,
    idempotency_keys,
    instructors,
    lost_requirements,
    merged_students,
    overrides,
    passed_codes,
    requirements,
    students,
    terms,
    waitlist,
)
from sql.courses import Seats
from sql.enrollments import Transcript
from sql.opening import load_opening
from sql.requirements import Requirement
from sql.students import Student

NO_STUDENT = 0
"""An id that no student has, for a batch that does not name a student."""

PAGE_STUDENTS = 20
"""Waitlisted students in the first page of a waitlist: usually the first of them gets the seat. Each page is twice as
long as the one before, so that the number of statements grows with the logarithm of the waitlist."""

MAX_PAGE_STUDENTS = 1280
"""The first page size that covers the students whom one transaction judges by default; pages do not grow beyond it."""

MAX_DUE_STUDENTS = 1000
"""Most students who are marked in one statement because their ``recheck_at`` has passed; the sweep marks the rest."""


def needs_of(changes: Sequence[Change[object]]) -> Needs:
    """Return all rows that changes are sure to need."""
    needs = Needs()
    for change in changes:
        change.add_needs(needs)
    return needs


async def open_ledger(connection: Connection, catalog: Catalog, promotions_left: int, needs: Needs) -> Ledger:
    """Return a ledger at the newest event, with the needed students and courses; call this under the lock.

    If the catalog has the courses, and no student has holds, overrides or waitlist places, a batch of enrollments loads
    nothing else: one round trip.
    """
    student_ids, course_ids = sorted(needs.students), sorted(needs.courses)
    first, *_ = rows = await load_opening(connection, student_ids or [NO_STUDENT], course_ids)
    assert first.now is not None
    assert first.position is not None
    head = feed.Head(first.now, first.position, first.epoch, first.occurred_at, first.request_id)
    await refresh_catalog(connection, catalog, head)
    ledger = Ledger(head, catalog, promotions_left)
    await _add_students(
        connection, ledger, needs.students, [Transcript._make(row[:11]) for row in rows if row.student_id]
    )
    seats = starmap(Seats, zip(*(column or () for column in first[-3:]), strict=True))
    await _add_courses(connection, ledger, needs.courses, [*seats])
    return ledger


async def refresh_catalog(connection: Connection, catalog: Catalog, head: feed.Head) -> None:
    """Bring the catalog to the newest event: remove what other processes have changed, or all of a lost history."""
    if catalog.is_full():
        catalog.clear()
    if catalog.is_at(head):
        return
    edits: list[feed.Edit] = []
    if catalog.occurred_at is not None and catalog.request_id is not None:
        edits = await feed.load_edits(connection, catalog.position, catalog.occurred_at, catalog.request_id, MAX_EDITS)
    catalog.follow(edits, head)


async def load_for(connection: Connection, ledger: Ledger, needs: Needs) -> None:
    """Load the other rows that changes are sure to need.

    These include the waitlists of courses with a free seat: those students are judged first, so that a newcomer never
    overtakes them.
    """
    needs.waitlists.update(course.id for course in ledger.courses if course.waitlisted and has_free_seat(course))
    await load(connection, ledger, needs)


async def load(connection: Connection, ledger: Ledger, needs: Needs) -> None:
    """Load the needed rows, and the rows that always go with them.

    The order matters: waitlists and override holders add students, whose transcripts add the courses for which they are
    waitlisted.
    """
    if not needs.are_those_of_enrollments:
        await _load_others(connection, ledger, needs)
    if new := needs.students - ledger.loaded_students:
        await _add_students(
            connection, ledger, new, await enrollments.load_transcripts(connection, sorted(new), ledger.now)
        )
    pairs = needs.pairs - ledger.loaded_pairs
    if unread := sorted([pair for pair in pairs if not ledger.was_never_in(*pair)]):
        for row in await enrollments.load_enrollments(connection, [*starmap(enrollments.Pair, unread)]):
            ledger.add_enrollment(row)
    ledger.loaded_pairs |= pairs
    if places := ledger.waitlist_places(needs.positions):
        ledger.add_positions(await waitlist.count_positions(connection, places))
    await _load_courses(connection, ledger, needs.courses | needs.rosters)
    await _load_catalog(connection, ledger, needs)


async def _load_others(connection: Connection, ledger: Ledger, needs: Needs) -> None:
    """Load what most batches do not need, and add to ``needs`` what goes with it."""
    await _write(connection, ledger, needs)
    if needs.idempotency_keys:
        for answer in await idempotency_keys.load_idempotency_keys(connection, sorted(needs.idempotency_keys)):
            ledger.answers.load(answer)
    for reserve, count in needs.ids.items():
        ledger.free_ids[reserve] = [*reversed(await reserve(connection, count)), *ledger.free_ids.get(reserve, [])]
    await _load_resources(connection, ledger, needs)
    await _load_waitlists(connection, ledger, needs)
    if needs.partners_of:
        await _load_partner_places(connection, ledger, needs)
    await _load_rosters(connection, ledger, needs.rosters)
    if needs.holds:
        for hold in await holds.find_holds(connection, sorted(needs.holds)):
            ledger.add_hold(hold)
    if needs.overrides:
        for override in await overrides.find_overrides(connection, sorted(needs.overrides)):
            ledger.add_override(override)
    await _load_of_courses(connection, ledger, needs)
    await _load_lost_requirements(connection, ledger, needs)
    await _load_whole_students(connection, ledger, needs)
    await _load_merged(connection, ledger, needs.merged)


async def _write(connection: Connection, ledger: Ledger, needs: Needs) -> None:
    """Make the changes that only the database can make, and apply them to the rows in memory."""
    if needs.whole or needs.partners_of:
        # The rows of a duplicate then go to a student whom the database has; partners are found by their new rows.
        await save(connection, ledger.flush())
    if needs.relaxed is not None:
        await _unjudge(connection, ledger, needs.relaxed)
    if needs.erased is not None:
        await _erase_texts(connection, ledger, needs.erased)


async def _load_whole_students(connection: Connection, ledger: Ledger, needs: Needs) -> None:
    """Load all rows of students, and the duplicates that were merged into them."""
    if not needs.whole:
        return
    ids = sorted(needs.whole)
    for row in await merged_students.load_enrollments_of_students(connection, ids):
        ledger.add_enrollment(row)
        needs.courses.add(row.course_id)
    for hold in await merged_students.load_holds_of_students(connection, ids):
        ledger.add_hold(hold)
    for override in await merged_students.load_overrides_of_students(connection, ids):
        ledger.add_override(override)
    for duplicate in await merged_students.load_duplicates(connection, ids):
        ledger.merged.load(duplicate.student_id, duplicate)
    ledger.whole_students |= needs.whole


async def _load_merged(connection: Connection, ledger: Ledger, ids: set[int]) -> None:
    """Load which of some students, who do not exist, were merged into others."""
    if not ids:
        return
    for row in await merged_students.load_merged_students(connection, sorted(ids), []):
        ledger.merged.load(row.student_id, row)
    ledger.loaded_merged |= ids


async def _load_of_courses(connection: Connection, ledger: Ledger, needs: Needs) -> None:
    """Load the instructors of courses and the counters of their reserved seats."""
    if unread_teaching := sorted(needs.teaching - ledger.loaded_teaching):
        rows = await course_instructors.load_course_instructors(connection, unread_teaching)
        ledger.add_teaching(unread_teaching, rows)
    if needs.reserved_seats:
        for course_id, text in await courses.load_reserved_seats(connection, sorted(needs.reserved_seats)):
            ledger.reserved_seats.load(course_id, json.loads(text or "{}"))


async def _load_lost_requirements(connection: Connection, ledger: Ledger, needs: Needs) -> None:
    """Load which seats have lost a requirement."""
    lost: list[enrollments.Pair] = []
    if needs.lost_requirements:
        lost += await lost_requirements.load_lost_requirements(connection, sorted(needs.lost_requirements))
        ledger.loaded_lost |= needs.lost_requirements
    if needs.lost_of_courses:
        lost += await lost_requirements.load_lost_of_courses(connection, sorted(needs.lost_of_courses))
        ledger.loaded_lost_courses |= needs.lost_of_courses
    for pair in lost:
        ledger.lost_requirements.load(pair, True)


async def _load_rosters(connection: Connection, ledger: Ledger, course_ids: set[int]) -> None:
    """Load the students enrolled in courses or waitlisted for them, and the swaps that may drop these courses."""
    if course_ids:
        for row in await enrollments.load_roster(connection, sorted(course_ids)):
            ledger.add_enrollment(row)
        for row in await waitlist.load_swaps_of_members(connection, sorted(course_ids)):
            ledger.add_enrollment(row)
        ledger.loaded_rosters |= course_ids


async def _load_waitlists(connection: Connection, ledger: Ledger, needs: Needs) -> None:
    """Load the next page of each waitlist and the override holders of courses, and add what judging them needs."""
    if needs.waitlists:
        known = {id: ledger.waitlists.get(id) for id in sorted(needs.waitlists)}
        pages_read = max([each.pages for each in known.values() if each], default=0)
        limit = min(PAGE_STUDENTS << pages_read, MAX_PAGE_STUDENTS)
        after = [each.loaded_through if each else 0 for each in known.values()]
        rows = await waitlist.load_unjudged(connection, [*known], after, ledger.now, limit)
        pages: dict[int, list[enrollments.Enrollment]] = {course_id: [] for course_id in known}
        for row in rows:
            pages[row.course_id].append(row)
            needs.add_waitlisted(row)
        for course_id, page in pages.items():
            ledger.add_waitlist_page(course_id, page, complete=len(page) < limit)
    if needs.override_holders:
        for holder in await overrides.load_override_holders(connection, sorted(needs.override_holders), ledger.now):
            ledger.add_override_holder(*holder)
            needs.students.add(holder.student_id)
            needs.pairs.add(holder)
        ledger.loaded_holders |= needs.override_holders


async def _load_partner_places(connection: Connection, ledger: Ledger, needs: Needs) -> None:
    """Load the next students whom only a corequisite blocks, and add what judging them needs."""
    known = ledger.partner_places
    after = (0, 0) if known is None else known.after
    course_ids, limit = sorted(needs.partners_of), MAX_PAGE_STUDENTS
    page = await waitlist.load_partner_places(connection, course_ids, *after, limit)
    last = (page[-1].course_id, page[-1].joined_position) if page else after
    ledger.partner_places = PartnerPlaces(deque(page), last, len(page) < limit)
    needs.students.update([place.student_id for place in page])
    needs.courses.update([place.course_id for place in page])


async def _unjudge(connection: Connection, ledger: Ledger, relaxed: Relaxed) -> None:  # noqa: PLR0912 - one branch for each condition
    """Mark students as unjudged if a relaxed condition may have blocked them, and mark their courses for promotion.

    The statements see only the tables, so everything in memory is saved first.
    """
    await save(connection, ledger.flush())
    if relaxed.former_codes:
        ledger.add_passed_codes(await passed_codes.keep_passed_codes(connection, relaxed.former_codes))
    pairs: list[enrollments.Pair] = []
    if relaxed.courses or relaxed.terms:
        pairs += await waitlist.unjudge_courses(connection, sorted(relaxed.courses), sorted(relaxed.terms))
    if relaxed.members or relaxed.members_of_terms:
        pairs += await waitlist.unjudge_members(connection, sorted(relaxed.members), sorted(relaxed.members_of_terms))
    if relaxed.students:
        pairs += await waitlist.unjudge_students(connection, sorted(relaxed.students))
    if relaxed.joined_codes:
        pairs += await equivalences.unjudge_equivalent(connection, relaxed.joined_codes, ["pre", "co"], False)
    if relaxed.parted_codes:
        pairs += await equivalences.unjudge_equivalent(connection, relaxed.parted_codes, ["anti"], True)
    if codes := [*relaxed.joined_codes, *relaxed.parted_codes]:
        # A swap that drops a corequisite is blocked by a course which the student keeps.
        pairs += await waitlist.unjudge_members(connection, await requirements.find_dependents(connection, codes), [])
    if relaxed.min_grades and (graded := await requirements.load_min_grades(connection)):
        pairs += await waitlist.unjudge_courses(connection, sorted({each.course_id for each in graded}), [])
    if relaxed.reserved is not None:
        pairs += await waitlist.unjudge_reserved(connection, *relaxed.reserved)
    if relaxed.due:
        pairs += await waitlist.unjudge_due(connection, ledger.now, MAX_DUE_STUDENTS)
    if relaxed.reopened_terms:
        for course_id in await waitlist.load_waitlisted_courses(connection, sorted(relaxed.reopened_terms)):
            ledger.mark_promotable(course_id, relaxed.origin)
    for student_id, course_id in pairs:
        ledger.add_unjudged(student_id, course_id)
        ledger.mark_promotable(course_id, relaxed.origin)
    ledger.relaxed.remove(relaxed)
    ledger.commit()


async def _erase_texts(connection: Connection, ledger: Ledger, student: Student) -> None:
    """Erase the texts about a student in the tables and in memory; all earlier changes of the batch are saved first."""
    await save(connection, ledger.flush())
    erased = await erase_texts(connection, [student])
    for hold in erased.holds:
        if hold.id in ledger.holds:
            ledger.holds.reload(hold.id, hold)
    for override in erased.overrides:
        if override.id in ledger.overrides:
            ledger.overrides.reload(override.id, override)
    ledger.erased_texts[student.id] = len(erased.holds) + len(erased.overrides) + len(erased.events)


async def _add_students(
    connection: Connection, ledger: Ledger, ids: set[int], transcripts: Sequence[Transcript]
) -> None:
    """Add students with their courses, holds and overrides; students of ``ids`` without a transcript do not exist."""
    waitlisted, with_holds, with_overrides, with_passed_codes = [], [], [], []
    waitlisted_course_ids: set[int] = set()
    for row in transcripts:
        ledger.add_transcript(row)
        if row.waitlisted:
            waitlisted.append(row.student_id)
            waitlisted_course_ids.update(row.waitlisted)
        if row.has_holds:
            with_holds.append(row.student_id)
        if row.has_overrides:
            with_overrides.append(row.student_id)
        if row.has_passed_codes:
            with_passed_codes.append(row.student_id)
    if waitlisted:
        for place in await waitlist.load_places(connection, waitlisted):
            ledger.add_enrollment(place)
        await _load_courses(connection, ledger, waitlisted_course_ids)
    if with_holds:
        for hold in await holds.load_holds(connection, with_holds, ledger.now):
            ledger.add_hold(hold)
    if with_overrides:
        for override in await overrides.load_overrides(connection, with_overrides, ledger.now):
            ledger.add_override(override)
    if with_passed_codes:
        ledger.add_passed_codes(await passed_codes.load_passed_codes(connection, with_passed_codes))
    ledger.loaded_students |= ids
    await _load_merged(connection, ledger, ids - {row.student_id for row in transcripts})


async def _load_courses(connection: Connection, ledger: Ledger, ids: set[int]) -> None:
    """Load courses with their seats."""
    if new := ids - ledger.loaded_courses:
        await _add_courses(connection, ledger, new, await courses.load_seats(connection, sorted(new)))


async def _add_courses(connection: Connection, ledger: Ledger, ids: set[int], seats: Sequence[Seats]) -> None:
    """Add courses from the catalog, with their current seats."""
    cached = ledger.catalog.courses
    if unknown := [each.course_id for each in seats if each.course_id not in cached]:
        near = ledger.catalog.near(unknown)
        for course in await courses.load_courses(connection, [*{*unknown, *near} - cached.keys()]):
            cached[course.id] = course
            ledger.catalog.codes.put(course.id, course.code)
    for course_id, seats_taken, waitlisted in seats:
        if course_id not in cached:
            # The course was deleted after its seats were loaded. Only an optimistic transaction sees this; it fails.
            continue
        course = cached[course_id]
        if (course.seats_taken, course.waitlisted) != (seats_taken, waitlisted):
            course = with_counters(course, seats_taken, waitlisted)
        ledger.courses.load(course_id, course)
    ledger.loaded_courses |= ids


async def _load_catalog(connection: Connection, ledger: Ledger, needs: Needs) -> None:
    """Load into the catalog the missing requirements, terms, and definitions of the students' courses.

    If a rule needs the definitions of one student's courses, those of all students are loaded: usually a rule needs all
    of them or none.
    """
    catalog = ledger.catalog
    if catalog.code_sets is None and (needs.code_sets or any(ledger.courses)):
        catalog.code_sets = CodeSets({each.id: each for each in await equivalences.load_equivalences(connection)})
    await _load_requirements(connection, ledger, needs.codes)
    wanted = {*needs.terms}
    wanted.update([course.term_id for course in ledger.courses if course.term_id is not None])
    if needs.definitions:
        new = sorted(
            (needs.definitions | ledger.held_course_ids()) - catalog.definitions.keys() - catalog.courses.keys()
        )
        for definition in await courses.load_definitions(connection, new):
            catalog.definitions[definition.id] = definition
            catalog.codes.put(definition.id, definition.code)
            if definition.term_id is not None:
                wanted.add(definition.term_id)
    if new := sorted(wanted - catalog.terms.keys() - ledger.loaded_terms):
        for term in await terms.load_terms(connection, new):
            catalog.terms[term.id] = term
        ledger.loaded_terms.update(new)


async def _load_requirements(connection: Connection, ledger: Ledger, more_codes: set[str]) -> None:
    """Load the missing requirements of courses, and those that name the codes of the courses or ``more_codes``."""
    catalog = ledger.catalog
    unread, codes = _missing_requirements(ledger, ledger.courses, more_codes)
    if not unread and not codes:
        return
    # Those of the courses that were read ahead are read with them.
    missing = [course.id for course in ledger.courses if course.id in unread or code_key(course.code) in codes]
    known = filter(None, map(catalog.courses.get, catalog.near(missing)))
    unread, codes = _missing_requirements(ledger, [*ledger.courses, *known], more_codes)
    required = await requirements.load_requirements(connection, sorted(unread), [*codes.values()])
    catalog.requirements.update(dict.fromkeys(unread, ()))
    catalog.excluders.update(dict.fromkeys(codes, frozenset()))
    catalog.dependents.update(dict.fromkeys(codes, frozenset()))
    catalog.dependents_in_progress.update(dict.fromkeys(codes, frozenset()))
    for course_id, rows in groupby(required, lambda row: row.course_id):
        groups = groups_of(rows)
        if course_id in unread:
            catalog.requirements[course_id] = groups
        for key in named_keys(groups, "anti") & codes.keys():
            catalog.excluders[key] |= {course_id}
        for key in named_keys(groups, "co") & codes.keys():
            catalog.dependents[key] |= {course_id}
        for key in named_keys(groups, "pre", in_progress=True) & codes.keys():
            catalog.dependents_in_progress[key] |= {course_id}
            catalog.allows_progress = True


def _missing_requirements(
    ledger: Ledger, wanted: Iterable[Course], more_codes: Iterable[str]
) -> tuple[set[int], dict[str, str]]:
    """Return the ids of courses whose requirements are not in the catalog, and the codes, by key, of which the catalog does
    not know who names them.
    """
    catalog = ledger.catalog
    unread = {course.id for course in wanted if course.id not in catalog.requirements}
    named = [*more_codes, *[course.code for course in wanted]]
    if named and (code_sets := ledger.code_sets).sets:
        named = [each for code in named for each in code_sets.equivalents(code)]
    return unread, {key: code for code in named if (key := code_key(code)) not in catalog.excluders}


def groups_of(rows: Iterable[Requirement]) -> tuple[Group, ...]:
    """Return the groups of one course's requirements."""
    return tuple(
        Group(kind, tuple(sorted([row.code for row in members])), min_grade, in_progress)
        for (_, kind, min_grade, in_progress), members in groupby(
            rows, lambda row: (row.group_number, row.kind, row.min_grade, row.in_progress)
        )
    )


async def _load_resources(connection: Connection, ledger: Ledger, needs: Needs) -> None:
    """Load the rows of all resource types, and mark the rows to delete on which other rows depend."""
    for resource, wanted in needs.resources.items():
        await _load_rows(connection, ledger, resource, wanted)
    await _load_merged_by_external_id(connection, ledger, needs)
    if needs.sourced_ids:
        for student in await students.match_students_by_sourced_id(connection, sorted(needs.sourced_ids)):
            ledger.students.load(student.id, student)
        for instructor in await instructors.match_instructors_by_sourced_id(connection, sorted(needs.sourced_ids)):
            ledger.instructors.load(instructor.id, instructor)
    if needs.grade_scale and ledger.catalog.grade_scale is None:
        ledger.catalog.grade_scale = GradeScale(tuple(await grades.load_grades(connection)))
    if needs.min_grades:
        ledger.add_min_grades(await requirements.load_min_grades(connection))
    # First load all rows: a course in memory does not count as a use of its term, since a change may move the course.
    for resource, wanted in needs.resources.items():
        if wanted.deleted:
            used = await resource.load_in_use(connection, ledger, sorted(wanted.deleted))
            ledger.in_use.update((resource.name, id) for id in used)


async def _load_merged_by_external_id(connection: Connection, ledger: Ledger, needs: Needs) -> None:
    """Load the duplicates that had the external ids under which students are to be created or replaced."""
    wanted = needs.resources[STUDENT].external_ids if STUDENT in needs.resources else []
    if missing := [id for id in wanted if ledger.students.find(external_id_of, id) is None]:
        for row in await merged_students.load_merged_students(connection, [], missing):
            ledger.merged.load(row.student_id, row)


async def _load_rows(
    connection: Connection, ledger: Ledger, resource: ResourceType[Row, Fields], needs: ResourceNeeds
) -> None:
    """Load the rows of one resource type by id, by external id, or by a unique key that a change wants to use."""
    identity_map = resource.identity_map(ledger)
    if needs.ids:
        for row in await resource.load(connection, sorted(needs.ids)):
            identity_map.load(row.id, row)
    wanted: list[Mapping[str, Any]] = [*needs.created]
    for id, values in needs.edited:
        edited = identity_map.get(id)
        # An edit may change one half of a unique key and keep the other.
        kept = {name: getattr(edited, name) for name in resource.key_parts if edited is not None}
        wanted.append({**kept, **values})
    if wanted:
        external_ids = [*needs.external_ids]
        external_ids += [values["external_id"] for values in wanted if values.get("external_id") is not None]
        for row in await resource.match(connection, external_ids, wanted):
            identity_map.load(row.id, row)
