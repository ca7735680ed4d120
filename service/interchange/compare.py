"""Compare staged rows with what stands, many with each statement, and make the changes that close the difference."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from pydantic import TypeAdapter

from service.api import courses, instructors, students, terms
from service.interchange.rows import Kind, own_id
from service.registrar.changes import Change, Origin
from service.registrar.courses import COURSE, Cancel, Reopen
from service.registrar.enrollments import Complete, Drop, Enroll
from service.registrar.instructors import INSTRUCTOR, Assign
from service.registrar.records import Record
from service.registrar.resources import Create, Delete, Edit, ResourceType
from service.registrar.students import STUDENT
from service.registrar.terms import TERM
from sql import Connection, course_instructors, imports
from sql import courses as sql_courses
from sql import instructors as sql_instructors
from sql import students as sql_students
from sql import terms as sql_terms
from sql.enrollments import Enrollment, Pair, load_enrollments
from sql.imports import FoundKey, ImportRow, PlannedAction

AUTHOR: Final = "import"


@dataclass(frozen=True, slots=True)
class Resource:
    """How a kind of row becomes a resource: the statements that find it, and the forms of the API."""

    type: ResourceType[Any, Any]
    find: Callable[[Connection, str, list[str]], Awaitable[list[FoundKey]]]
    load: Callable[[Connection, list[int]], Awaitable[Sequence[Any]]]
    show: Callable[[Any], Any]
    shown: TypeAdapter[Any]
    changes: TypeAdapter[Any]
    defaults: Mapping[str, object]
    """The values of a new row that its file does not give, as the registrar has them."""
    reference: str = ""
    """The field with the id of the term to which a row refers."""


RESOURCES: Final[Mapping[Kind, Resource]] = {
    "term": Resource(
        TERM,
        imports.find_terms_by_key,
        sql_terms.load_terms,
        terms.term_of,
        TypeAdapter(terms.Term),
        TypeAdapter(terms.TermChanges),
        {
            **dict.fromkeys(("parent_id", "enroll_from", "enroll_until", "drop_until", "withdraw_until")),
            "max_credits": None,
        },
        "parent_id",
    ),
    "course": Resource(
        COURSE,
        imports.find_courses_by_key,
        sql_courses.load_courses,
        courses.course_of,
        TypeAdapter(courses.Course),
        TypeAdapter(courses.CourseChanges),
        {
            **dict.fromkeys(("external_id", "term_id", "section", "capacity", "waitlist_capacity")),
            "credits": 0.0,
            "meetings": "[]",
        },
        "term_id",
    ),
    "instructor": Resource(
        INSTRUCTOR,
        imports.find_instructors_by_key,
        sql_instructors.load_instructors,
        instructors.instructor_of,
        TypeAdapter(instructors.Instructor),
        TypeAdapter(instructors.InstructorChanges),
        dict.fromkeys(("external_id", "sourced_id", "given_name", "family_name", "email")),
    ),
    "student": Resource(
        STUDENT,
        imports.find_students_by_key,
        sql_students.load_students,
        students.student_of,
        TypeAdapter(students.Student),
        TypeAdapter(students.StudentChanges),
        {
            **dict.fromkeys(("external_id", "sourced_id", "given_name", "family_name", "preferred_name", "email")),
            "max_credits": None,
            "groups": "",
        },
    ),
}


class Compared(NamedTuple):
    """What a staged row asks for, and the changes that do it: none if the rows to which it refers are still to come."""

    row: ImportRow
    action: PlannedAction
    code: str | None = None
    detail: str | None = None
    row_id: int | None = None
    other_id: int | None = None
    changes: tuple[Change[Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """What all rows of an import are compared with."""

    connection: Connection
    import_id: int
    source: str
    mark: str
    origin: Origin
    as_recorded: bool
    is_plan: bool
    """Whether the rows to which a row refers may be those that the import will add."""
    _found: dict[Kind, dict[str, int | None]] = field(default_factory=dict)
    _staged: dict[Kind, set[str]] = field(default_factory=dict)

    async def compare(self, rows: Sequence[ImportRow]) -> list[Compared]:
        """Compare rows of one kind, in order."""
        if not rows:
            return []
        kind: Kind = rows[0].kind  # type: ignore[assignment]  # The statements return it as text.
        valid = [row for row in rows if row.code is None]
        if kind in RESOURCES:
            compared = await self._compare_resources(kind, valid)
        elif kind == "teaching":
            compared = await self._compare_teachings(valid)
        else:
            compared = await self._compare_enrollments(valid)
        by_number = {each.row.number: each for each in compared}
        return [by_number.get(row.number) or Compared(row, "refused", row.code, row.detail) for row in rows]

    async def _find(self, kind: Kind, keys: Sequence[str | None]) -> dict[str, int | None]:
        """Return the ids of the rows with these keys, and note which other keys the import will add."""
        found: dict[str, int | None] = {}
        unknown = []
        for key in dict.fromkeys(keys):
            if key is not None:
                found[key] = own_id(kind, key, self.mark)
                if found[key] is None:
                    unknown.append(key)
        resource = RESOURCES[kind]
        if own := [id for id in found.values() if id is not None]:
            existing = {row.id for row in await resource.load(self.connection, own)}
            found = {key: id if id in existing else None for key, id in found.items()}
        if unknown:
            found.update(await resource.find(self.connection, self.source, unknown))
        missing = [key for key, id in found.items() if id is None]
        if missing and self.is_plan:
            self._staged[kind] = {*await imports.find_staged_keys(self.connection, self.import_id, kind, missing)}
        else:
            self._staged[kind] = set()
        return found

    def _refers(self, kind: Kind, key: str | None, found: Mapping[str, int | None]) -> bool:
        """Return whether a row with this key exists, or will."""
        return key is not None and (found.get(key) is not None or key in self._staged[kind])

    async def _compare_resources(self, kind: Kind, rows: Sequence[ImportRow]) -> list[Compared]:
        resource = RESOURCES[kind]
        found = await self._find(kind, [row.key for row in rows])
        referred = await self._find("term", [row.first_key for row in rows]) if resource.reference else {}
        existing = {
            row.id: row for row in await resource.load(self.connection, [id for id in found.values() if id is not None])
        }
        compared = []
        for row in rows:
            current = existing.get(found[row.key] or 0)
            if row.removed:
                compared.append(self._compare_removed(resource, row, current))
                continue
            if row.first_key is not None and not self._refers("term", row.first_key, referred):
                sentence = f"There is no term {row.first_key}: list it in the file of the terms, or create it."
                compared.append(Compared(row, "refused", "unknown_term", sentence))
                continue
            term_id = None if row.first_key is None else referred[row.first_key]
            compared.append(self._compare_fields(resource, row, current, term_id))
        return compared

    def _compare_removed(self, resource: Resource, row: ImportRow, current: Any) -> Compared:
        if current is None:
            return Compared(row, "unchanged")
        change: Change[Any] = Delete(origin=self.origin, resource=resource.type, id=current.id)
        return Compared(row, "drop", row_id=current.id, other_id=0, changes=(change,))

    def _compare_fields(self, resource: Resource, row: ImportRow, current: Any, term_id: int | None) -> Compared:
        """Compare the fields that a file gives with those of a row, which may not exist yet."""
        fields: dict[str, Any] = json.loads(row.fields)
        new: dict[str, Any] = fields.pop("new", {})
        has_reference = fields.pop("reference", None) is not None
        status = fields.pop("status", None)
        waits = row.first_key is not None and term_id is None
        if current is None:
            if status == "cancelled":
                return Compared(row, "refused", "new_and_cancelled", "A new course is open: cancel it afterwards.")
            values = _values(resource, {**new, **fields})
            if resource.reference:
                values[resource.reference] = term_id
            values = {**resource.defaults, **values}
            if "given_name" in values and values["given_name"] is None and values["family_name"] is None:
                return Compared(row, "refused", "name_required", "given_name or family_name is required.")
            missing = [name for name in resource.type.key_parts if name == "code" and not values.get("code")]
            if missing or ("title" in fields and not fields["title"]):
                return Compared(row, "refused", "required", "A new course needs a code.")
            create: Change[Any] = Create(origin=self.origin, resource=resource.type, fields=values)
            return Compared(row, "add", other_id=0, changes=() if waits else (create,))
        shown = resource.shown.dump_python(resource.show(current), mode="json", by_alias=True)
        sourced_id = fields.pop("sourced_id", None)
        if sourced_id is not None and sourced_id != shown["sourced_id"]:
            sentence = (
                f"The {row.kind} with this key has another sourced id, which never changes: {shown['sourced_id']}."
            )
            return Compared(row, "refused", "sourced_id_differs", sentence, current.id, 0)
        values = {name: value for name, value in fields.items() if shown[name] != value}
        edits = _values(resource, values)
        if has_reference and (waits or shown[resource.reference] != term_id):
            edits[resource.reference] = term_id
        changes: list[Change[Any]] = []
        if edits:
            changes.append(Edit(origin=self.origin, resource=resource.type, id=current.id, values=edits))
        if status is not None and status != shown["status"]:
            turn = Cancel if status == "cancelled" else Reopen
            changes.append(turn(origin=self.origin, course_id=current.id))
        if not changes:
            return Compared(row, "unchanged", row_id=current.id, other_id=0)
        return Compared(row, "change", row_id=current.id, other_id=0, changes=() if waits else tuple(changes))

    async def _compare_teachings(self, rows: Sequence[ImportRow]) -> list[Compared]:
        instructors = await self._find("instructor", [row.first_key for row in rows])
        courses = await self._find("course", [row.second_key for row in rows])
        ids = sorted({id for id in courses.values() if id is not None})
        current = {
            (each.instructor_id, each.course_id): each.is_primary
            for each in await course_instructors.load_course_instructors(self.connection, ids)
            if each.teaches
        }
        compared = []
        for row in rows:
            if refused := self._refused_pair(row, "instructor", instructors, courses):
                compared.append(refused)
                continue
            instructor_id, course_id = _id(instructors, row.first_key), _id(courses, row.second_key)
            is_primary = current.get((instructor_id or 0, course_id or 0))
            if row.removed:
                action: PlannedAction = "unchanged" if is_primary is None else "drop"
            elif is_primary is None:
                action = "add"
            else:
                # An instructor who is not named as primary stays so until another one is.
                action = "change" if json.loads(row.fields)["primary"] and not is_primary else "unchanged"
            changes: tuple[Change[Any], ...] = ()
            if action != "unchanged" and instructor_id is not None and course_id is not None:
                assign = Assign(
                    origin=self.origin,
                    course_id=course_id,
                    instructor_id=instructor_id,
                    teaches=not row.removed,
                    is_primary=not row.removed and json.loads(row.fields)["primary"],
                )
                changes = (assign,)
            compared.append(Compared(row, action, row_id=instructor_id, other_id=course_id, changes=changes))
        return compared

    def _refused_pair(
        self, row: ImportRow, kind: Kind, people: Mapping[str, int | None], courses: Mapping[str, int | None]
    ) -> Compared | None:
        """Return the refusal of a row whose person or course does not exist; what is gone needs no removal."""
        for its, key, found in ((kind, row.first_key, people), ("course", row.second_key, courses)):
            if not self._refers(its, key, found):
                if row.removed:
                    return Compared(row, "unchanged")
                sentence = f"There is no {its} {key}: list it in the file of its kind, or create it."
                return Compared(row, "refused", f"unknown_{its}", sentence)
        return None

    async def _compare_enrollments(self, rows: Sequence[ImportRow]) -> list[Compared]:
        students = await self._find("student", [row.first_key for row in rows])
        courses = await self._find("course", [row.second_key for row in rows])
        pairs = [
            Pair(student_id, course_id)
            for row in rows
            if (student_id := _id(students, row.first_key)) and (course_id := _id(courses, row.second_key))
        ]
        loaded = await load_enrollments(self.connection, pairs) if pairs else []
        current = {(row.student_id, row.course_id): row for row in loaded}
        compared = []
        for row in rows:
            if refused := self._refused_pair(row, "student", students, courses):
                compared.append(refused)
                continue
            student_id, course_id = _id(students, row.first_key), _id(courses, row.second_key)
            existing = current.get((student_id or 0, course_id or 0))
            each = self._compare_status(row, existing, student_id, course_id)
            compared.append(each._replace(row_id=student_id, other_id=course_id))
        return compared

    def _compare_status(
        self, row: ImportRow, existing: Enrollment | None, student_id: int | None, course_id: int | None
    ) -> Compared:
        fields = json.loads(row.fields)
        asked = "left" if row.removed else fields["status"]
        passed, grade = fields.get("passed"), fields.get("grade")
        status = None if existing is None else existing.status
        leaves = asked in {"dropped", "withdrawn", "left"}
        if status == "completed":
            assert existing is not None
            same = asked in {"active", "enrolled"} or (
                asked == "completed" and passed in {None, existing.passed} and grade == existing.grade
            )
            if leaves and not row.removed:
                return Compared(row, "refused", "already_completed", "The student has completed the course.")
            action: PlannedAction = "unchanged" if same or leaves else "change"
        elif status == "enrolled":
            action = "drop" if leaves else "change" if asked == "completed" else "unchanged"
        elif status == "waitlisted" and not leaves and not self.as_recorded:
            sentence = "The student is waitlisted for the course; an import as recorded would give the seat."
            return Compared(row, "refused", "waitlisted", sentence)
        elif status == "waitlisted":
            action = "drop" if leaves else "change"
        elif leaves:
            action = "add" if asked == "withdrawn" and status is None and self.as_recorded else "unchanged"
            if asked == "withdrawn" and status is None and not self.as_recorded:
                sentence = "The student was never in the course; an import as recorded would record the withdrawal."
                return Compared(row, "refused", "never_enrolled", sentence)
        else:
            action = "add"
        if action == "unchanged" or student_id is None or course_id is None:
            return Compared(row, action)
        pair = Pair(student_id, course_id)
        return Compared(row, action, changes=self._moves(pair, status, asked, passed=passed, grade=grade))

    def _moves(
        self, pair: Pair, status: str | None, asked: Any, *, passed: bool | None, grade: str | None
    ) -> tuple[Change[Any], ...]:
        """Return the changes that give an enrollment the status that a file asks for."""
        student_id, course_id = pair
        if self.as_recorded:
            record = Record(
                origin=self.origin,
                student_id=student_id,
                course_id=course_id,
                status="enrolled" if asked == "active" else asked,
                passed=passed,
                grade=grade,
                author=self.origin.actor or AUTHOR,
                reason=f"Recorded as import {self.import_id} says.",
            )
            return (record,)
        if asked in {"dropped", "withdrawn", "left"}:
            return (Drop(origin=self.origin, student_id=student_id, course_id=course_id),)
        changes: tuple[Change[Any], ...] = ()
        if status not in {"enrolled", "completed"}:
            changes = (Enroll(origin=self.origin, student_id=student_id, course_ids=(course_id,)),)
        if asked == "completed":
            complete = Complete(
                origin=self.origin, student_id=student_id, course_id=course_id, passed=passed, grade=grade
            )
            changes = (*changes, complete)
        return changes


def _id(found: Mapping[str, int | None], key: str | None) -> int | None:
    return None if key is None else found.get(key)


def _values(resource: Resource, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of the API as the registrar has them."""
    values: dict[str, Any] = dict(resource.changes.validate_python(fields, strict=False))
    if "groups" in values:
        values["groups"] = ",".join(values["groups"])
    if "meetings" in values:
        values["meetings"] = courses.MEETINGS.dump_json(list(values["meetings"])).decode()
    return values
