"""Recording what another system says about an enrollment: an override lifts each rule that would refuse it."""

from dataclasses import dataclass
from typing import Literal

from service.registrar import rules, seats
from service.registrar.changes import Change, Moved
from service.registrar.courses import find_course
from service.registrar.enrollments import Requested, judge_together, raise_refusals
from service.registrar.grades import result_of
from service.registrar.ledger import Ledger
from service.registrar.moves import judge_drop, move, use
from service.registrar.needs import Needs
from service.registrar.overrides import GrantOverride
from service.registrar.students import check_student
from service.registrar.waitlist import settle_before_newcomer
from sql.enrollments import Enrollment

FINAL_CODES = frozenset(rule.__name__ for rule in rules.FINAL_RULES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record(Change[Moved | None]):
    """Give an enrollment a status, whatever the rules say; the status ``left`` is a drop or, after the deadline, a withdrawal.

    For each rule that refuses a seat, an override is granted and used. A withdrawal of a student who was never in the
    course is recorded as an enrollment and its end. A completion stays, unless another one corrects it.

    Raises, when decided:
        StudentNotFound, CourseNotFound: there is no such student or course.
        EnrollmentRefused: the course is cancelled.
        UnknownGrade, InvalidResult: the result does not agree with the grade scale.
    """

    student_id: int
    course_id: int
    status: Literal["enrolled", "completed", "dropped", "withdrawn", "left"]
    author: str
    reason: str
    passed: bool | None = None
    grade: str | None = None

    def add_needs(self, needs: Needs) -> None:
        """Add the student, the course, the pair and, for a completion, the grade scale."""
        needs.students.add(self.student_id)
        needs.courses.add(self.course_id)
        needs.pairs.add((self.student_id, self.course_id))
        needs.grade_scale |= self.status == "completed"

    def decide(self, ledger: Ledger) -> Moved | None:
        """Return the row after the change; None if a student who shall leave was never in the course."""
        check_student(ledger, self.student_id)
        course = find_course(ledger, self.course_id)
        row = ledger.enrollment(self.student_id, course.id)
        passed = result_of(ledger.grade_scale, self.passed, self.grade) if self.status == "completed" else None
        leaves = self.status in {"dropped", "left"}
        if row is None and leaves:
            return None
        if row is not None and self._is_recorded(row, passed):
            return Moved("unchanged", row, course)
        if not leaves and (row is None or row.status not in seats.SEATED):
            row = self._seat(ledger, row)
        assert row is not None
        if self.status != "enrolled":
            status = judge_drop(ledger, row, (course.id,))[0] if self.status == "left" else self.status
            row = move(ledger, self.student_id, course.id, status, self.origin, passed=passed, grade=self.grade)
        assert row.status != "waitlisted"
        return Moved(row.status, row, ledger.course(course.id) or course)

    def _is_recorded(self, row: Enrollment, passed: bool | None) -> bool:
        """Return whether nothing is left to do: of students who have left, only a new seat is recorded."""
        match row.status:
            case "completed":
                return self.status != "completed" or (row.passed, row.grade) == (passed, self.grade)
            case "enrolled":
                return self.status == "enrolled"
            case "waitlisted":
                return False
            case _:
                return self.status not in seats.SEATED

    def _seat(self, ledger: Ledger, row: Enrollment | None) -> Enrollment:
        """Seat the student, who may be waitlisted, and return the row."""
        pair = self.student_id, self.course_id
        if row is not None and row.status == "waitlisted":
            move(ledger, *pair, "dropped", self.origin)
        settle_before_newcomer(ledger, (self.course_id,), self.origin)
        # A rule may refuse only once an override gives a seat above the capacity.
        for _ in rules.RULES:
            [decision] = judge_together(ledger, self.student_id, (self.course_id,), "fail", ())
            final = tuple([refusal for refusal in decision.refusals if refusal.code in FINAL_CODES])
            raise_refusals(Requested("course_ids", (self.course_id,), [decision._replace(refusals=final)]))
            if not decision.refusals:
                break
            for code in dict.fromkeys([refusal.code for refusal in decision.refusals]):
                self._override(code).decide(ledger)
        override_id = use(ledger, decision.used, self.origin)
        return move(ledger, *pair, "enrolled", self.origin, override_id=override_id)

    def _override(self, rule: str) -> GrantOverride:
        return GrantOverride(
            origin=self.origin,
            student_id=self.student_id,
            course_id=self.course_id,
            rule=rule,
            author=self.author,
            reason=self.reason,
        )
