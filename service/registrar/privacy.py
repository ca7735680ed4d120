"""The erasure of a student: identifying data gives way to a pseudonym, and the numbers stay."""

from dataclasses import dataclass, replace
from typing import Final

from service.registrar.changes import Change
from service.registrar.ledger import Ledger
from service.registrar.needs import Needs, NotLoaded
from service.registrar.resources import check_unique
from service.registrar.students import STUDENT
from sql.students import Student

IDENTIFYING: Final = (*("external_id", "sourced_id", "given_name", "family_name", "preferred_name", "email", "groups"),)
"""The fields of a student that identify a person."""


def pseudonymous(student: Student) -> Student:
    """Return a student with a pseudonym in place of all identifying data; the same one each time."""
    name = f"erased-{student.id}"
    return replace(
        student,
        external_id=None if student.external_id is None else name,
        sourced_id=name,
        given_name="erased",
        family_name=name,
        preferred_name=None,
        groups="",
        email=f"{name}@erased.invalid",
    )


def is_erased(student: Student) -> bool:
    """Return whether a student has the pseudonym."""
    return student.sourced_id == f"erased-{student.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Erase(Change[Student]):
    """Erase a student. If nothing is left to erase, nothing changes."""

    student_id: int

    def add_needs(self, needs: Needs) -> None:
        """Add the student, and the students who have the pseudonym."""
        name = f"erased-{self.student_id}"
        wanted = needs.resource(STUDENT)
        wanted.ids.add(self.student_id)
        needs.sourced_ids.add(name)
        wanted.edited.append((self.student_id, {"external_id": name, "email": f"{name}@erased.invalid"}))

    def decide(self, ledger: Ledger) -> Student:
        """Return the student with the pseudonym.

        The texts are erased in the database, after everything that this batch has decided is written. That can't be
        undone within the transaction, so every reason to refuse comes first.
        """
        student = ledger.students.get(self.student_id)
        if student is None:
            raise ledger.missing_student(self.student_id)
        erased = pseudonymous(student)
        check_unique(ledger, STUDENT, erased)
        texts = ledger.erased_texts.pop(student.id, None)
        if texts is None:
            raise NotLoaded(Needs(erased=student))
        fields = [name for name in IDENTIFYING if getattr(student, name) != getattr(erased, name)]
        if not fields and not texts:
            return student
        erased = replace(erased, version=student.version + 1, updated_at=ledger.now)
        ledger.students.put(student.id, erased)
        ledger.append_event(
            "student.erased",
            self.origin,
            student_id=student.id,
            before={"fields": fields, "version": student.version},
            after={"fields": fields, "version": erased.version},
        )
        return erased
