"""The changes of enrollments: enrolling, swapping, dropping and completing, and taking a completion back."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final, Literal, NamedTuple, TypeAlias, cast

from service.errors import (
    AlreadyCompleted,
    CourseCancelled,
    Detail,
    DropRefused,
    EnrollmentNotFound,
    EnrollmentRefused,
    NotCompleted,
    NotEnrolled,
    UnknownCourse,
)
from service.registrar import reserved, rules, seats
from service.registrar.application import (
    NO_PARTNERS,
    NO_SCALE,
    Application,
    Course,
    HeldSeat,
    History,
    OnFull,
    Partner,
    Partners,
    Refusal,
    Reservation,
    Seat,
)
from service.registrar.changes import Change, Moved, Origin, Outcome, RefusedCourse, Result
from service.registrar.courses import find_course
from service.registrar.grades import result_of
from service.registrar.ledger import Ledger
from service.registrar.moves import (
    drop_duplicate,
    judge_drop,
    lift,
    move,
    set_swap_drops,
    swap_drops_of,
    swaps_that_drop,
    use,
)
from service.registrar.needs import Needs
from service.registrar.rules import DropStatus
from service.registrar.students import check_student
from service.registrar.waitlist import settle_before_newcomer
from sql.enrollments import Enrollment
from sql.overrides import Override
from sql.refusals import Action

Mode: TypeAlias = Literal["atomic", "partial"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Enroll(Change[tuple[Result, ...]]):
    """Enroll a student in courses or waitlist the student, in the order requested; one result for each distinct course.

    Raises, when decided:
        StudentNotFound: there is no such student.
        EnrollmentRefused, UnknownCourse: in mode atomic, with every reason for every course.
        PromotionsPending: waitlisted students come first, and there are too many for one transaction.
    """

    student_id: int
    course_ids: tuple[int, ...]
    mode: Mode = "atomic"
    on_full: OnFull = "fail"

    @property
    def pairs(self) -> int:
        """One for each course."""
        return len(self.course_ids)

    def add_needs(self, needs: Needs) -> None:
        """Add the student, the courses and the pairs of both."""
        needs.students.add(self.student_id)
        needs.courses.update(self.course_ids)
        needs.pairs.update([(self.student_id, course_id) for course_id in self.course_ids])

    def decide(self, ledger: Ledger) -> tuple[Result, ...]:
        """Return a result for each course."""
        check_student(ledger, self.student_id)
        course_ids = tuple(dict.fromkeys(self.course_ids))
        settle_before_newcomer(ledger, course_ids, self.origin)
        judge = judge_together if self.mode == "atomic" else _judge_in_turn
        decisions = judge(ledger, self.student_id, course_ids, self.on_full, ())
        if self.mode == "atomic":
            raise_refusals(Requested("course_ids", self.course_ids, decisions))
        results = [_apply(ledger, self.student_id, decision, self.origin) for decision in decisions]
        return _after_drops(ledger, self.student_id, results)

    def refused(self, outcome: Outcome) -> Sequence[RefusedCourse]:
        """Return all courses of a refused request, or the refused courses in mode partial."""
        if self.mode == "atomic" or isinstance(outcome, Exception):
            return _refused(self.student_id, outcome, {"enroll": self.course_ids})
        results = cast("tuple[Result, ...]", outcome)
        return [
            RefusedCourse(
                self.student_id, result.course_id, "enroll", [(each.code, each.params) for each in result.refusals]
            )
            for result in results
            if result.outcome == "refused"
        ]


class Decision(NamedTuple):
    """The decision for one course, before it is applied."""

    course_id: int
    course: Course | None
    seat: Seat = "none"
    existing: Enrollment | None = None
    """The student's row, if the student is already enrolled or waitlisted."""
    position: int | None = None
    """The waitlist position of a student who is already waitlisted."""
    refusals: tuple[Refusal, ...] = ()
    used: tuple[Override, ...] = ()
    reserved: tuple[Reservation, ...] = ()
    """The reservations that keep the free seats from the student."""

    @property
    def granted(self) -> bool:
        """Whether the student gets a seat or a waitlist place by this request."""
        return self.existing is None and not self.refusals


def _offer(ledger: Ledger, student_id: int, course_id: int, on_full: OnFull) -> Decision:
    """Determine whether a seat or a waitlist place is available, before applying rules."""
    course = ledger.course(course_id)
    if course is None:
        return Decision(course_id, None)
    row = ledger.enrollment(student_id, course_id)
    if row is not None and row.status in seats.ACTIVE:
        position = ledger.waitlist_position(row) if row.status == "waitlisted" else None
        return Decision(course_id, course, existing=row, position=position)
    overrides = ledger.overrides_of(student_id, course_id)
    kept = reserved.keeping(ledger, student_id, course) if course.reservations else ()
    seat = seats.offer(
        course,
        on_full,
        above_capacity="course_full" in overrides,
        is_reserved=bool(kept) and "seats_reserved" not in overrides,
    )
    if seat == "none" and on_full == "waitlist" and "waitlist_full" in overrides and course.waitlist_capacity != 0:
        seat = "waitlist"
    return Decision(course_id, course, seat, reserved=kept)


def _requested(ledger: Ledger, decisions: Iterable[Decision]) -> dict[str, list[Partner]]:
    """Return the courses that a request is for, by the keys of their codes."""
    requested: dict[str, list[Partner]] = {}
    key = ledger.code_sets.key
    for decision in decisions:
        if decision.course is not None and decision.existing is None:
            partner = Partner(decision.course, ledger.term(decision.course.term_id))
            requested.setdefault(key(decision.course.code), []).append(partner)
    return requested


def judge_together(
    ledger: Ledger, student_id: int, course_ids: Sequence[int], on_full: OnFull, without: Collection[int]
) -> list[Decision]:
    """Judge all courses as if all of them were granted: for a request that is granted or refused as a whole."""
    offers = [_offer(ledger, student_id, course_id, on_full) for course_id in course_ids]
    requested = _requested(ledger, offers) if len(offers) > 1 else NO_PARTNERS
    history = ledger.history(student_id, without)
    seated = [
        (offer.course, ledger.term(offer.course.term_id))
        for offer in offers
        if offer.course is not None and offer.existing is None and offer.seat == "seat"
    ]
    decisions = []
    for offer in offers:
        others: tuple[HeldSeat, ...] = ()
        if len(seated) > 1 or (seated and offer.seat != "seat"):
            others = tuple([held for held in seated if held[0].id != offer.course_id])
        decisions.append(
            _judged(
                ledger, student_id, offer, on_full=on_full, history=history, requested=requested, requested_seats=others
            )
        )
    return decisions


def _judge_in_turn(
    ledger: Ledger, student_id: int, course_ids: Sequence[int], on_full: OnFull, without: Collection[int]
) -> list[Decision]:
    """Judge each course after the seats of the earlier ones, then refuse courses whose corequisite was refused."""
    offers = [_offer(ledger, student_id, course_id, on_full) for course_id in course_ids]
    requested = _requested(ledger, offers) if len(offers) > 1 else NO_PARTNERS
    history = ledger.history(student_id, without)
    taken: list[HeldSeat] = []
    decisions: list[Decision] = []
    for offer in offers:
        decision = _judged(
            ledger, student_id, offer, on_full=on_full, history=history, requested=requested, granted=tuple(taken)
        )
        decisions.append(decision)
        if decision.granted and decision.course is not None and decision.seat == "seat":
            taken.append((decision.course, ledger.term(decision.course.term_id)))
    decisions = _without_siblings_of(
        ledger, student_id, decisions, history=history, requested=requested, taken=tuple(taken)
    )
    return _without_lost_corequisites(ledger, student_id, decisions, history)


def _without_siblings_of(
    ledger: Ledger,
    student_id: int,
    decisions: list[Decision],
    *,
    history: History,
    requested: Partners,
    taken: tuple[HeldSeat, ...],
) -> list[Decision]:
    """Refuse granted waitlist places for another offering of a course in which a later item is granted a seat."""
    if not taken:
        return decisions
    judged = [*decisions]
    for index, decision in enumerate(decisions):
        if decision.granted and decision.seat == "waitlist" and decision.course is not None:
            refusals = _duplicates(ledger, student_id, decision.course, history, requested=requested, granted=taken)
            judged[index] = decision._replace(refusals=refusals)
    return judged


def _duplicates(
    ledger: Ledger,
    student_id: int,
    course: Course,
    history: History,
    *,
    requested: Partners = NO_PARTNERS,
    granted: tuple[HeldSeat, ...] = (),
) -> tuple[Refusal, ...]:
    """Return the refusals of a course because of seats in other offerings of it, unless an override lifts them."""
    application = Application(
        now=ledger.now,
        course_id=course.id,
        course=course,
        history=history,
        term=ledger.term(course.term_id),
        requested=requested,
        granted=granted,
        code_sets=ledger.code_sets,
    )
    return lift(rules.duplicate_course(application), ledger.overrides_of(student_id, course.id))[0]


def _judged(
    ledger: Ledger,
    student_id: int,
    offer: Decision,
    *,
    on_full: OnFull,
    history: History,
    requested: Partners,
    granted: tuple[HeldSeat, ...] = (),
    requested_seats: tuple[HeldSeat, ...] = (),
) -> Decision:
    """Judge an offer and lift refusals by overrides; only a seat uses overrides up."""
    course = offer.course
    if offer.existing is not None:
        return offer
    term = None if course is None else ledger.term(course.term_id)
    groups = () if course is None else ledger.groups(course.id)
    application = Application(
        now=ledger.now,
        course_id=offer.course_id,
        course=course,
        history=history,
        term=term,
        ends_at=ledger.end_of(term),
        parent=None if term is None or term.parent_id is None else ledger.term(term.parent_id),
        seat=offer.seat,
        on_full=on_full,
        groups=groups,
        excluders=frozenset() if course is None else ledger.excluders(course),
        requested=requested,
        granted=granted,
        requested_seats=requested_seats,
        code_sets=ledger.code_sets,
        scale=ledger.scale_for(groups) if groups else NO_SCALE,
        reserved=offer.reserved,
    )
    if course is None:
        return offer._replace(refusals=tuple(rules.unknown_course(application)))
    found = rules.judge(application)
    if offer.seat == "seat" and not seats.has_free_seat(course):
        found += tuple(rules.course_full(application._replace(seat="none", on_full="fail")))
    if not found:
        return offer
    refusals, used = lift(found, ledger.overrides_of(student_id, course.id))
    return offer._replace(refusals=refusals, used=used if offer.seat == "seat" else ())


def _without_lost_corequisites(
    ledger: Ledger, student_id: int, decisions: list[Decision], history: History
) -> list[Decision]:
    """Refuse granted courses whose corequisite in this request was refused, in order, until none is left.

    Only courses that depend on a refused code are judged again, so each pair of course and code costs one judgment.
    """
    dependents: dict[str, list[int]] = {}
    """By the key of a code, the indexes of the granted courses that have it as a corequisite."""
    granted = _requested(ledger, [decision for decision in decisions if decision.granted])
    for index, decision in enumerate(decisions):
        if not decision.granted or decision.course is None:
            continue
        for group in ledger.groups(decision.course.id):
            for key in ledger.code_sets.keys(group.codes) if group.kind == "co" else ():
                dependents.setdefault(key, []).append(index)
    judged = [*decisions]
    doubtful = sorted({index for indexes in dependents.values() for index in indexes})
    while doubtful:
        index = heappop(doubtful)
        decision = judged[index]
        course = decision.course
        if not decision.granted or course is None:
            continue
        application = Application(
            now=ledger.now,
            course_id=course.id,
            course=course,
            history=history,
            term=ledger.term(course.term_id),
            groups=ledger.groups(course.id),
            requested=granted,
            code_sets=ledger.code_sets,
        )
        overrides = ledger.overrides_of(student_id, course.id)
        lost, used = lift(rules.corequisite_missing(application), overrides)
        if lost:
            judged[index] = decision._replace(refusals=lost)
            key = ledger.code_sets.key(course.code)
            granted[key] = [partner for partner in granted[key] if partner.course.id != course.id]
            for dependent in dependents.get(key, ()):
                heappush(doubtful, dependent)
        elif used:
            judged[index] = decision._replace(used=tuple(dict.fromkeys((*decision.used, *used))))
    return judged


def _apply(
    ledger: Ledger, student_id: int, decision: Decision, origin: Origin, swap_drops: Sequence[int] = ()
) -> Result:
    """Apply a decision and return its result."""
    course_id, course = decision.course_id, decision.course
    if decision.refusals:
        return Result(course_id, "refused", course, refusals=decision.refusals)
    if decision.existing is not None:
        return Result(course_id, "unchanged", course, decision.existing.status, decision.position)
    if decision.seat == "seat":
        override_id = use(ledger, decision.used, origin) if decision.used else None
        move(ledger, student_id, course_id, "enrolled", origin, override_id=override_id)
        return Result(course_id, "enrolled", course, "enrolled")
    move(ledger, student_id, course_id, "waitlisted", origin, swap_drops=swap_drops)
    return Result(course_id, "waitlisted", course, "waitlisted", position=ledger.courses[course_id].waitlisted)


def _after_drops(ledger: Ledger, student_id: int, results: list[Result]) -> tuple[Result, ...]:
    """Return results in which waitlist places that a seat of the same request has dropped are dropped."""
    if "waitlisted" in [result.status for result in results]:
        for index, result in enumerate(results):
            row = ledger.enrollments.get((student_id, result.course_id)) if result.status == "waitlisted" else None
            if row is not None and row.status == "dropped":
                results[index] = Result(result.course_id, "dropped", result.course, "dropped")
    return tuple(results)


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap(Change[tuple[Result, ...]]):
    """Drop courses and enroll in others, all or nothing; one result for each distinct drop, then for each add.

    If an add only gets a waitlist place, the drops are made later, when it gets its seat.

    Raises, when decided:
        StudentNotFound: there is no such student.
        EnrollmentRefused, UnknownCourse: with every reason for every course.
        PromotionsPending: as ``Enroll``.
    """

    student_id: int
    drop: tuple[int, ...]
    add: tuple[int, ...]
    on_full: OnFull = "fail"

    @property
    def pairs(self) -> int:
        """One for each course."""
        return len(self.drop) + len(self.add)

    def add_needs(self, needs: Needs) -> None:
        """Add the student, the courses and the pairs of both."""
        needs.students.add(self.student_id)
        needs.courses.update(self.drop, self.add)
        needs.pairs.update([(self.student_id, course_id) for course_id in (*self.drop, *self.add)])

    def decide(self, ledger: Ledger) -> tuple[Result, ...]:
        """Return a result for each course."""
        check_student(ledger, self.student_id)
        add_ids = tuple(dict.fromkeys(self.add))
        settle_before_newcomer(ledger, add_ids, self.origin)
        drop_ids = tuple(dict.fromkeys(self.drop))
        leaving = [course_id for course_id in drop_ids if _can_leave(ledger, self.student_id, course_id)]
        adds = judge_together(ledger, self.student_id, add_ids, self.on_full, leaving)
        requested = _requested(ledger, adds)
        drops = [_judge_drop(ledger, self.student_id, course_id, leaving, requested) for course_id in drop_ids]
        raise_refusals(Requested("drop", self.drop, drops), Requested("add", self.add, adds))
        seated = any(add.existing is None and add.seat == "seat" for add in adds)
        waits = any(
            add.seat == "waitlist" if add.existing is None else add.existing.status == "waitlisted" for add in adds
        )
        # Seats were judged as if the drops were made. So a granted seat makes the drops, even if an add is waitlisted.
        if waits and leaving and not seated:
            return self._swap_later(ledger, drops, adds, leaving)
        results = [_drop_now(ledger, drop, self.origin) for drop in drops]
        added = [_apply(ledger, self.student_id, add, self.origin) for add in adds]
        return (*results, *_after_drops(ledger, self.student_id, added))

    def refused(self, outcome: Outcome) -> Sequence[RefusedCourse]:
        """Return all courses of a refused request."""
        course_ids: Mapping[Action, tuple[int, ...]] = {"swap_drop": self.drop, "swap_add": self.add}
        return _refused(self.student_id, outcome, course_ids if self.add else {"swap_drop": self.drop})

    def _swap_later(
        self, ledger: Ledger, drops: Sequence["DropDecision"], adds: Sequence[Decision], leaving: list[int]
    ) -> tuple[Result, ...]:
        """Postpone the drops: store them with the waitlist place.

        A place that the student has already is judged again: the new drops may keep a seat in another offering.
        """
        history = ledger.history(self.student_id, leaving)
        raise_refusals(
            Requested(
                "add",
                self.add,
                [
                    add._replace(refusals=_duplicates(ledger, self.student_id, add.course, history))
                    for add in adds
                    if add.course is not None and add.existing is not None and add.existing.status == "waitlisted"
                ],
            )
        )
        results = [
            Result(drop.course_id, "kept" if drop.course_id in leaving else "unchanged", drop.course, drop.row.status)
            for drop in drops
            if drop.row is not None
        ]
        for add in adds:
            row = add.existing
            if row is not None and row.status == "waitlisted" and swap_drops_of(row) != leaving:
                set_swap_drops(ledger, row, leaving, self.origin)
                ledger.changed_students.put(self.student_id, self.origin)
            results.append(_apply(ledger, self.student_id, add, self.origin, leaving))
        return tuple(results)


@dataclass(frozen=True, slots=True)
class DropDecision:
    """The decision for one course to drop."""

    course_id: int
    course: Course | None
    row: Enrollment | None
    status: DropStatus = "dropped"
    refusals: tuple[Refusal, ...] = ()
    used: tuple[Override, ...] = ()


def _can_leave(ledger: Ledger, student_id: int, course_id: int) -> bool:
    """Return whether a student is in a course, or has completed it."""
    row = None if ledger.course(course_id) is None else ledger.enrollment(student_id, course_id)
    return row is not None and row.status not in seats.INACTIVE


def _judge_drop(
    ledger: Ledger, student_id: int, course_id: int, leaving: Collection[int], requested: Partners = NO_PARTNERS
) -> DropDecision:
    course = ledger.course(course_id)
    row = None if course is None else ledger.enrollment(student_id, course_id)
    if course is None or row is None:
        return DropDecision(course_id, course, None, refusals=(Refusal("not_enrolled", course_id, None),))
    if row.status in seats.INACTIVE:
        return DropDecision(course_id, course, row)
    return DropDecision(course_id, course, row, *judge_drop(ledger, row, leaving, requested))


def _drop_now(ledger: Ledger, drop: DropDecision, origin: Origin) -> Result:
    row = drop.row
    assert row is not None
    if row.status in seats.INACTIVE:
        return Result(drop.course_id, "unchanged", drop.course, row.status)
    use(ledger, drop.used, origin)
    move(ledger, row.student_id, row.course_id, drop.status, origin)
    return Result(drop.course_id, drop.status, drop.course, drop.status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop(Change[Moved]):
    """Drop a student from a course or from its waitlist; nothing changes for a student who has already left.

    A drop that ``annuls`` leaves no withdrawal, not even an earlier one, and neither a deadline nor a hold refuses it.

    Raises, when decided:
        StudentNotFound: there is no such student.
        EnrollmentNotFound: the student was never in the course.
        AlreadyCompleted: the student has completed it.
        DropRefused: with every reason.
    """

    student_id: int
    course_id: int
    annuls: bool = False

    def add_needs(self, needs: Needs) -> None:
        """Add the student, the course and the pair."""
        needs.students.add(self.student_id)
        needs.courses.add(self.course_id)
        needs.pairs.add((self.student_id, self.course_id))

    def decide(self, ledger: Ledger) -> Moved:
        """Return the row after the drop."""
        check_student(ledger, self.student_id)
        decision = _judge_drop(ledger, self.student_id, self.course_id, (self.course_id,))
        if decision.row is None or decision.course is None:
            raise EnrollmentNotFound(self.student_id, self.course_id)
        if decision.row.status == "completed":
            raise AlreadyCompleted(self.course_id)
        if self.annuls:
            return self._annul(ledger, decision.row, decision.course)
        if decision.refusals:
            raise DropRefused([detail_of(refusal, None) for refusal in decision.refusals])
        result = _drop_now(ledger, decision, self.origin)
        row = ledger.enrollments[self.student_id, self.course_id]
        return Moved("unchanged" if result.outcome == "unchanged" else decision.status, row, decision.course)

    def _annul(self, ledger: Ledger, row: Enrollment, course: Course) -> Moved:
        if row.status == "dropped":
            return Moved("unchanged", row, course)
        row = move(ledger, self.student_id, self.course_id, "dropped", self.origin, event="annulled")
        return Moved("dropped", row, course)

    def refused(self, outcome: Outcome) -> Sequence[RefusedCourse]:
        """Return the course of a refused drop."""
        return _refused(self.student_id, outcome, {"drop": (self.course_id,)})


def _find_enrollment(ledger: Ledger, student_id: int, course_id: int) -> tuple[Course, Enrollment]:
    """Return a course with the student's row in it, or raise EnrollmentNotFound."""
    course = ledger.course(course_id)
    row = None if course is None else ledger.enrollment(student_id, course_id)
    if course is None or row is None:
        raise EnrollmentNotFound(student_id, course_id)
    return course, row


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepDrops(Change[Moved]):
    """Clear the pending drops of a waitlisted student's swap; the student keeps the waitlist place.

    The place is dropped if it is for another offering of a course in which the student now keeps the seat.

    Raises, when decided:
        StudentNotFound: there is no such student.
        EnrollmentNotFound: the student was never in the course.
    """

    student_id: int
    course_id: int

    def add_needs(self, needs: Needs) -> None:
        """Add the student, the course and the pair."""
        needs.students.add(self.student_id)
        needs.courses.add(self.course_id)
        needs.pairs.add((self.student_id, self.course_id))

    def decide(self, ledger: Ledger) -> Moved:
        """Return the row without pending drops."""
        check_student(ledger, self.student_id)
        course, row = _find_enrollment(ledger, self.student_id, self.course_id)
        position = ledger.waitlist_position(row) if row.status == "waitlisted" else None
        adds = tuple([place.course_id for place in swaps_that_drop(ledger, self.student_id, self.course_id)])
        if row.status != "waitlisted" or not row.swap_drops:
            return Moved("unchanged", row, course, position, adds)
        if duplicates := _duplicates(ledger, self.student_id, course, ledger.history(self.student_id)):
            seat_id = cast(int, duplicates[0].public["with_course_id"])
            row = drop_duplicate(ledger, self.student_id, self.course_id, seat_id, self.origin)
            return Moved("dropped", row, course)
        set_swap_drops(ledger, row, [], self.origin)
        # A refusal of a pending drop may have blocked the student.
        ledger.changed_students.put(self.student_id, self.origin)
        return Moved("kept", ledger.enrollments[self.student_id, self.course_id], course, position, adds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete(Change[Moved]):
    """Complete a student's course, or correct its result.

    Raises, when decided:
        StudentNotFound, CourseNotFound: there is no such student or course.
        NotEnrolled: the student is neither enrolled in the course nor has completed it.
        UnknownGrade, InvalidResult: the result does not agree with the grade scale.
    """

    student_id: int
    course_id: int
    passed: bool | None
    grade: str | None = None

    def add_needs(self, needs: Needs) -> None:
        """Add the student, the course, the pair and the grade scale."""
        needs.students.add(self.student_id)
        needs.courses.add(self.course_id)
        needs.pairs.add((self.student_id, self.course_id))
        needs.grade_scale = True

    def decide(self, ledger: Ledger) -> Moved:
        """Return the completed row. The same result again is unchanged, even if the grade has left the scale."""
        check_student(ledger, self.student_id)
        course = find_course(ledger, self.course_id)
        row = ledger.enrollment(self.student_id, self.course_id)
        if row is None or row.status not in seats.SEATED:
            raise NotEnrolled(self.student_id, self.course_id)
        if row.status == "completed" and (row.passed, row.grade) == (self.passed, self.grade):
            return Moved("unchanged", row, course)
        passed = result_of(ledger.grade_scale, self.passed, self.grade)
        if row.status == "completed" and (row.passed, row.grade) == (passed, self.grade):
            return Moved("unchanged", row, course)
        row = move(
            ledger,
            self.student_id,
            self.course_id,
            "completed",
            self.origin,
            passed=passed,
            grade=self.grade,
        )
        return Moved("completed", row, course)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveCompletion(Change[Moved]):
    """Take a completion back: the student is enrolled again, in the same seat. Nothing changes for an enrolled student.

    Raises, when decided:
        StudentNotFound: there is no such student.
        EnrollmentNotFound: the student was never in the course.
        NotCompleted: the student has not completed it.
        CourseCancelled: nobody is enrolled in a cancelled course.
    """

    student_id: int
    course_id: int

    def add_needs(self, needs: Needs) -> None:
        """Add the student, the course and the pair."""
        needs.students.add(self.student_id)
        needs.courses.add(self.course_id)
        needs.pairs.add((self.student_id, self.course_id))

    def decide(self, ledger: Ledger) -> Moved:
        """Return the enrolled row."""
        check_student(ledger, self.student_id)
        course, row = _find_enrollment(ledger, self.student_id, self.course_id)
        if row.status == "enrolled":
            return Moved("unchanged", row, course)
        if row.status != "completed":
            raise NotCompleted(self.student_id, self.course_id)
        if course.status == "cancelled":
            raise CourseCancelled(course.id)
        row = move(ledger, self.student_id, self.course_id, "enrolled", self.origin, event="completion_removed")
        # A later completion counts for the code that the course has then.
        ledger.passed_codes.put((self.student_id, self.course_id), None)
        return Moved("enrolled", row, course)


REFUSALS: Final = (EnrollmentRefused, UnknownCourse, DropRefused, AlreadyCompleted)
"""The errors of a request that was refused as a whole: a tuple, since each call would make a union again."""


def _refused(
    student_id: int, outcome: Outcome, course_ids: Mapping[Action, tuple[int, ...]]
) -> Sequence[RefusedCourse]:
    """Return all courses of a request that was refused as a whole. A student who does not exist is refused nothing."""
    if not isinstance(outcome, REFUSALS):
        return ()
    if len(outcome.errors) == 1 and sum(map(len, course_ids.values())) == 1:
        # Almost always, and a rush repeats it thousands of times.
        [error], [(action, [course_id])] = outcome.errors, course_ids.items()
        return [RefusedCourse(student_id, course_id, action, [(error.code, error.params)])]
    reasons: dict[object, list[tuple[str, Mapping[str, object]]]] = {}
    for error in outcome.errors:
        reasons.setdefault(error.params["course_id"], []).append((error.code, error.params))
    whole = () if outcome.errors else [(outcome.code, NO_PARAMS)]
    return [
        RefusedCourse(student_id, course_id, action, reasons.get(course_id, whole))
        for action, ids in course_ids.items()
        for course_id in dict.fromkeys(ids)
    ]


NO_PARAMS: Mapping[str, object] = {}


def detail_of(refusal: Refusal, pointer: str | None) -> Detail:
    """Convert a refusal to one reason of an error."""
    return Detail(
        refusal.code,
        rules.sentence(refusal),
        pointer=pointer,
        params={"course_id": refusal.course_id, **refusal.params},
    )


class Requested(NamedTuple):
    """The decisions about one member of the body, and the course ids as the body lists them."""

    member: str
    course_ids: tuple[int, ...]
    decisions: Sequence[Decision | DropDecision]


def raise_refusals(*requested: Requested) -> None:
    """Raise an error with all refusals, if there are any."""
    if not any(decision.refusals for each in requested for decision in each.decisions):
        return
    errors = [
        detail_of(refusal, f"#/{each.member}/{each.course_ids.index(decision.course_id)}")
        for each in requested
        for decision in each.decisions
        for refusal in decision.refusals
    ]
    unknown = any(error.code == UnknownCourse.code for error in errors)
    raise UnknownCourse(errors) if unknown else EnrollmentRefused(errors)
