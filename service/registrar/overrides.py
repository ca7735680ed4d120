"""The changes of overrides: granting an override to a student and ending it."""

from dataclasses import dataclass, replace
from datetime import datetime

from service.errors import Detail, OverrideNotFound, UnknownCourse
from service.registrar.changes import Change, Origin
from service.registrar.ledger import Ledger
from service.registrar.lost_requirements import allow_progress
from service.registrar.needs import Needs
from service.registrar.students import check_student
from sql.overrides import Override, reserve_override_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantOverride(Change[Override]):
    """Lift one rule for one student and one course, once."""

    student_id: int
    course_id: int
    rule: str
    author: str
    reason: str
    expires_at: datetime | None = None

    def add_needs(self, needs: Needs) -> None:
        """Add the student, the course and an id."""
        needs.students.add(self.student_id)
        needs.courses.add(self.course_id)
        needs.pairs.add((self.student_id, self.course_id))
        needs.ids[reserve_override_ids] += 1

    def decide(self, ledger: Ledger) -> Override:
        """Return the new override."""
        check_student(ledger, self.student_id)
        if ledger.course(self.course_id) is None:
            sentence = f"There is no course {self.course_id}."
            raise UnknownCourse([Detail(UnknownCourse.code, sentence, pointer="#/course_id")])
        override = Override(
            id=ledger.take_id(reserve_override_ids),
            student_id=self.student_id,
            course_id=self.course_id,
            rule=self.rule,
            author=self.author,
            reason=self.reason,
            expires_at=self.expires_at,
            used_at=None,
            created_at=ledger.now,
        )
        ledger.put_override(override)
        _append_event(ledger, "granted", self.origin, None, override)
        # An override of drop_closed may allow a swap to drop this course, so all waitlist places are judged again.
        ledger.changed_students.put(self.student_id, self.origin)
        lifts_requirement = self.rule == "prerequisite_missing" and allow_progress(ledger.groups(self.course_id))
        if lifts_requirement and ledger.has_lost(self.student_id, self.course_id):
            ledger.doubtful.put((self.student_id, self.course_id), self.origin)
        return override


@dataclass(frozen=True, slots=True, kw_only=True)
class EndOverride(Change[Override]):
    """End an override now; an override that was used or has expired does not change."""

    student_id: int
    override_id: int

    def add_needs(self, needs: Needs) -> None:
        """Add the student and the override."""
        needs.students.add(self.student_id)
        needs.overrides.add(self.override_id)

    def decide(self, ledger: Ledger) -> Override:
        """Return the ended override."""
        check_student(ledger, self.student_id)
        override = ledger.overrides.get(self.override_id)
        if override is None or override.student_id != self.student_id:
            raise OverrideNotFound(self.override_id)
        if override.used_at is not None or (override.expires_at is not None and override.expires_at <= ledger.now):
            return override
        ended = replace(override, expires_at=ledger.now)
        ledger.put_override(ended)
        _append_event(ledger, "ended", self.origin, override, ended)
        return ended


def _append_event(ledger: Ledger, what: str, origin: Origin, before: Override | None, after: Override) -> None:
    ledger.append_event(
        f"override.{what}",
        origin,
        student_id=after.student_id,
        course_id=after.course_id,
        before=None if before is None else override_state(before),
        after=override_state(after),
    )


def override_state(override: Override) -> dict[str, object]:
    """Return the state of an override for an event."""
    return {
        "override_id": override.id,
        "rule": override.rule,
        "author": override.author,
        "expires_at": override.expires_at,
    }
