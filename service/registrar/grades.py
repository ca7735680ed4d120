"""The change of the grade scale, and the result of a completed course that agrees with it."""

from dataclasses import dataclass

from service.errors import GradeInUse, InvalidResult, UnknownGrade
from service.registrar.application import Grade, GradeScale
from service.registrar.changes import Change
from service.registrar.ledger import Ledger
from service.registrar.needs import Needs, Relaxed


@dataclass(frozen=True, slots=True, kw_only=True)
class SetGradeScale(Change[GradeScale]):
    """Replace the grade scale; without grades there is none. Raise ``GradeInUse`` if a requirement needs a grade that it lacks.

    Completed courses keep their grades and results.
    """

    grades: tuple[Grade, ...]

    def add_needs(self, needs: Needs) -> None:
        """Add the scale."""
        needs.grade_scale = True

    def decide(self, ledger: Ledger) -> GradeScale:
        """Return the scale."""
        before, after = ledger.grade_scale, GradeScale(self.grades)
        if before == after:
            return before
        if removed := before.ranks.keys() - after.ranks.keys():
            for course_id, grade in ledger.min_grades():
                if grade in removed:
                    raise GradeInUse(grade, course_id)
        ledger.put_grade_scale(after)
        ledger.append_event("grade_scale.set", self.origin, before=_state(before), after=_state(after))
        # The order may have changed.
        ledger.relax(Relaxed(self.origin, min_grades=True))
        return after


def _state(scale: GradeScale) -> dict[str, object]:
    return {"grades": [{"grade": each.grade, "passes": each.passes} for each in scale.grades]}


def result_of(scale: GradeScale, passed: bool | None, grade: str | None) -> bool:
    """Return whether a completed course is passed: as the caller says, or else as the scale does.

    Raises:
        UnknownGrade: there is a scale without this grade.
        InvalidResult: the caller and the scale disagree, or neither of them says it.
    """
    if grade is None or not scale.grades:
        if passed is None:
            raise InvalidResult("passed is required, unless the grade is in the grade scale.")
        return passed
    if grade not in scale.ranks:
        raise UnknownGrade(grade, "#/grade")
    passes = scale.grades[scale.ranks[grade]].passes
    if passed is not None and passed != passes:
        verb = "passes" if passes else "does not pass"
        raise InvalidResult(f"passed must be {str(passes).lower()} or left out: the grade {grade} {verb}.")
    return passes
