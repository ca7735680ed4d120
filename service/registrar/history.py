"""A student's courses, holds and limits, as the rules look them up."""

from collections.abc import Callable, Collection, Sequence, Set
from functools import cached_property
from typing import TYPE_CHECKING

from service.registrar.application import COMPLETED, Defined, HeldSeat, Partner, Partners

if TYPE_CHECKING:
    from service.registrar.ledger import Ledger


class StudentHistory:
    """A student's history for the rules; each part is gathered when a rule first needs it.

    So no rule works on incomplete data, and a batch does not load what no rule needs.
    """

    def __init__(self, ledger: "Ledger", student_id: int, without: Collection[int]) -> None:
        self._ledger = ledger
        self._student_id = student_id
        self._marks = ledger.marks(student_id)
        self._without = without
        self._codes_are_known: bool | None = None
        """Whether the catalog knows the codes of all courses; None until a rule asks."""
        self.holds = ledger.holds_of(student_id)
        self.max_credits = ledger.max_credits(student_id)

    def has_completed(self, course_id: int) -> bool:
        """Return whether the student has completed a course."""
        return self._marks.get(course_id) in COMPLETED

    def offerings(self, key: str) -> Sequence[HeldSeat]:
        """Return the courses whose codes have this key in which the student has a seat."""
        if not self._marks or not self._may_have(key):
            return ()
        same = {id for id, definition in self._definitions.items() if self._code_key(definition.code) == key}
        return self._seats_in(same.difference(self._without)) if same else ()

    def _may_have(self, key: str) -> bool:
        """Return False if the catalog shows that no course has a code with this key: cheaper than all definitions."""
        ledger = self._ledger
        codes = ledger.catalog.codes
        if self._codes_are_known is None:
            self._codes_are_known = codes.know_all(self._marks.keys())
        if ledger.codes_changed or key in ledger.code_sets.shared_keys or not self._codes_are_known:
            return True
        return not self._marks.keys().isdisjoint(codes.courses_with(key))

    @property
    def _code_key(self) -> Callable[[str], str]:
        return self._ledger.code_sets.key

    @cached_property
    def _definitions(self) -> dict[int, Defined]:
        return self._ledger.definitions(sorted(self._marks)) if self._marks else {}

    @cached_property
    def passed(self) -> frozenset[str]:
        """The keys of the codes of the courses that the student has passed."""
        return frozenset([self._passed_key(id) for id, mark in self._marks.items() if mark == "passed"])

    def grades(self, keys: Sequence[str]) -> list[str | None]:
        """Return the grades with which the student has passed courses whose codes have one of these keys."""
        ids = sorted([id for id, mark in self._marks.items() if mark == "passed" and self._passed_key(id) in keys])
        return [row.grade for row in self._ledger.rows_of(self._student_id, ids)]

    def _passed_key(self, course_id: int) -> str:
        """Return the key of the code under which the student has passed a course."""
        return self._code_key(self._ledger.passed_code(self._student_id, self._definitions[course_id]))

    @cached_property
    def partners(self) -> Partners:
        """The courses that the student is in, is waitlisted for or has passed."""
        partners: dict[str, list[Partner]] = {}
        for id, mark in self._marks.items():
            if mark == "failed" or (id in self._without and mark != "passed"):
                continue
            definition = self._definitions[id]
            if mark == "passed":
                key, partner = self._passed_key(id), Partner(definition, passed=True)
            else:
                term = self._ledger.term(definition.term_id)
                # A waitlist ends with its term.
                lapses_at = self._ledger.end_of(term) if mark == "waitlisted" else None
                if lapses_at is not None and lapses_at <= self._ledger.now:
                    continue
                key = self._code_key(definition.code)
                partner = Partner(definition, term, waitlisted=mark == "waitlisted", lapses_at=lapses_at)
            partners.setdefault(key, []).append(partner)
        return partners

    @cached_property
    def seats(self) -> tuple[HeldSeat, ...]:
        """The courses in which the student has a seat, by id."""
        return self._seats_in(self._marks.keys() - self._without)

    @cached_property
    def leaving(self) -> tuple[HeldSeat, ...]:
        """The courses in which the student has a seat that counts as dropped."""
        return self._seats_in(self._marks.keys() & self._without) if self._without else ()

    def _seats_in(self, course_ids: Set[int]) -> tuple[HeldSeat, ...]:
        return tuple(
            [
                (definition, self._ledger.term(definition.term_id))
                for id, definition in self._definitions.items()
                if self._marks[id] != "waitlisted" and id in course_ids
            ]
        )
