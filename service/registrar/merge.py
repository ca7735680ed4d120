"""Merging a duplicate of a student into the student."""

import json
from dataclasses import dataclass, replace

from service.errors import AlreadyMerged, MergeOfErased, MergeWithItself, UnknownStudent
from service.registrar import reserved, seats
from service.registrar.changes import Change
from service.registrar.holds import hold_state
from service.registrar.ledger import Ledger
from service.registrar.lost_requirements import allow_progress, forget_seat, lost_requirements
from service.registrar.moves import drop_siblings, enrollment_state, set_swap_drops, swap_drops_of
from service.registrar.needs import Needs
from service.registrar.overrides import override_state
from service.registrar.privacy import is_erased
from service.registrar.students import STUDENT, check_student, names_of
from sql.enrollments import Enrollment
from sql.merged_students import MergedStudent
from sql.students import Student

STRENGTHS = {"completed": 5, "enrolled": 4, "waitlisted": 3, "withdrawn": 2, "dropped": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge(Change[Student]):
    """Merge a duplicate into a student, who gets its enrollments, holds and overrides; the duplicate is then gone.

    Where both have an enrollment in a course, the stronger one stands, and the seat or waitlist place of the other is free.

    Raises, when decided:
        StudentNotFound, Merged: there is no such student.
        UnknownStudent: there is no such duplicate.
        MergeWithItself: both are the same student.
        AlreadyMerged: the duplicate was merged before.
        MergeOfErased: one of them was erased.
    """

    student_id: int
    duplicate_id: int

    def add_needs(self, needs: Needs) -> None:
        """Add both students."""
        both = {self.student_id, self.duplicate_id}
        needs.students |= both
        needs.resource(STUDENT).ids |= both

    def decide(self, ledger: Ledger) -> Student:
        """Return the student."""
        id, duplicate_id = self.student_id, self.duplicate_id
        check_student(ledger, id)
        if duplicate_id == id:
            raise MergeWithItself
        if not ledger.has_student(duplicate_id):
            merged = ledger.merged.get(duplicate_id)
            raise UnknownStudent(duplicate_id) if merged is None else AlreadyMerged(duplicate_id, merged.merged_into)
        student, duplicate = ledger.students[id], ledger.students[duplicate_id]
        for each in (student, duplicate):
            if is_erased(each):
                raise MergeOfErased(each.id)
        ledger.require_whole(id, duplicate_id)
        doubtful = self._doubtful_courses(ledger)
        for row in [*ledger.courses_of(duplicate_id)]:
            self._merge_enrollment(ledger, row)
        self._limit_swaps(ledger)
        self._move_holds_and_overrides(ledger)
        self._drop_siblings(ledger)
        for course_id in doubtful:
            if ledger.marks(id).get(course_id) == "enrolled":
                ledger.doubtful.put((id, course_id), self.origin)
        ledger.merge(
            MergedStudent(
                duplicate_id,
                id,
                duplicate.external_id,
                json.dumps(names_of(duplicate), ensure_ascii=False, separators=(",", ":")),
                ledger.now,
            )
        )
        ledger.students.put(duplicate_id, None)
        changed = replace(student, version=student.version + 1, updated_at=ledger.now)
        ledger.students.put(id, changed)
        ledger.append_event(
            "student.merged_into",
            self.origin,
            student_id=duplicate_id,
            before={"version": duplicate.version},
            after={"merged_into": id, "version": duplicate.version + 1},
        )
        # Last: what the student got above a limit, or beside another course, was got before this event.
        ledger.append_event(
            "student.merged",
            self.origin,
            student_id=id,
            before={"version": student.version},
            after={"duplicate_id": duplicate_id, "version": changed.version},
        )
        ledger.changed_students.put(id, self.origin)
        return changed

    def _doubtful_courses(self, ledger: Ledger) -> list[int]:
        """Return the courses in which one of both meets the requirements, or has lost one, that may be in progress."""
        return sorted(
            {
                course_id
                for student_id in (self.student_id, self.duplicate_id)
                for course_id, mark in ledger.marks(student_id).items()
                if mark == "enrolled"
                and allow_progress(ledger.groups(course_id))
                and (ledger.has_lost(student_id, course_id) or not lost_requirements(ledger, student_id, course_id))
            }
        )

    def _merge_enrollment(self, ledger: Ledger, row: Enrollment) -> None:
        """Move an enrollment of the duplicate, unless that of the student is at least as strong."""
        course = ledger.course(row.course_id)
        assert course is not None
        own = ledger.enrollments.get((self.student_id, row.course_id))
        passed_code = ledger.passed_codes.get((row.student_id, row.course_id))
        forget_seat(ledger, row.student_id, row.course_id)
        ledger.remove_enrollment(row)
        ledger.append_event(
            "enrollment.merged_into",
            self.origin,
            student_id=row.student_id,
            course_id=row.course_id,
            before=_before(row),
            after={"merged_into": self.student_id},
        )
        recounted = seats.recount(course, row.status, "dropped")
        if course.reservations is not None:
            reserved.count(ledger, course, row.reserved_group, None)
        if own is None or _strength(row) > _strength(own):
            forget_seat(ledger, self.student_id, row.course_id)
            stands = row._replace(student_id=self.student_id, updated_at=ledger.now, recheck_at=None)
            recounted = seats.recount(recounted, None if own is None else own.status, stands.status)
            ledger.append_event(
                "enrollment.merged",
                self.origin,
                student_id=self.student_id,
                course_id=row.course_id,
                before=None if own is None else _before(own),
                after={
                    **enrollment_state(stands),
                    "duplicate_id": row.student_id,
                    "joined_position": row.joined_position,
                    "joined_at": row.joined_at,
                    **({} if row.override_id is None else {"override_id": row.override_id}),
                    **({} if passed_code is None else {"passed_code": passed_code}),
                },
            )
            if course.reservations is not None:
                reserved.count(ledger, course, None if own is None else own.reserved_group, stands.reserved_group)
            ledger.put_enrollment(stands)
            ledger.passed_codes.put((self.student_id, row.course_id), passed_code)
        if recounted is not course:
            ledger.courses.put(course.id, recounted)
        if recounted.waitlisted and seats.has_free_seat(recounted):
            ledger.mark_promotable(course.id, self.origin)
        if course.reservations is not None and recounted.seats_taken < course.seats_taken:
            ledger.opened.put(course.id, self.origin.of_promotions())

    def _limit_swaps(self, ledger: Ledger) -> None:
        """Keep in the student's swaps only courses that the student can still drop."""
        for row in [*ledger.courses_of(self.student_id)]:
            if row.swap_drops is None:
                continue
            others = [ledger.enrollments.get((self.student_id, id)) for id in swap_drops_of(row)]
            kept = [other.course_id for other in others if other is not None and other.status in seats.ACTIVE]
            if kept != swap_drops_of(row):
                set_swap_drops(ledger, row, kept, self.origin)

    def _drop_siblings(self, ledger: Ledger) -> None:
        """Drop the waitlist places for other offerings of the courses in which the student now has a seat."""
        for row in [*ledger.courses_of(self.student_id)]:
            course = ledger.course(row.course_id)
            if row.status in seats.SEATED and course is not None and ledger.has_places(self.student_id):
                drop_siblings(ledger, self.student_id, course, self.origin, completed=row.status == "completed")

    def _move_holds_and_overrides(self, ledger: Ledger) -> None:
        for hold in sorted(
            [each for each in ledger.holds if each.student_id == self.duplicate_id], key=lambda it: it.id
        ):
            moved_hold = replace(hold, student_id=self.student_id)
            ledger.move_hold(moved_hold)
            ledger.append_event("hold.merged", self.origin, student_id=self.student_id, after=hold_state(moved_hold))
        own = [each for each in ledger.overrides if each.student_id == self.duplicate_id]
        for override in sorted(own, key=lambda it: it.id):
            moved = replace(override, student_id=self.student_id)
            ledger.move_override(moved)
            ledger.append_event(
                "override.merged",
                self.origin,
                student_id=self.student_id,
                course_id=moved.course_id,
                after={**override_state(moved), "used_at": moved.used_at},
            )


def _strength(row: Enrollment) -> tuple[int, bool, int]:
    """Return a value that is greater for the stronger of two enrollments in a course.

    A pass is stronger than a failure, and an earlier waitlist place than a later one.
    """
    return STRENGTHS[row.status], bool(row.passed), -row.joined_position if row.status == "waitlisted" else 0


def _before(row: Enrollment) -> dict[str, object]:
    return {name: value for name, value in enrollment_state(row).items() if name != "swap_drops"}
