"""Bulk requests: many students, courses or enrollments in one call, with an outcome for each."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeAlias, cast
from urllib.parse import quote

from pydantic import Discriminator, Field, Tag, TypeAdapter, model_validator
from typing_extensions import TypeAliasType

from service.api import courses, students
from service.api.answers import Id, Version
from service.api.courses import CourseReplacement
from service.api.enrollment_types import (
    AddedIds,
    CompletionRequest,
    CourseIds,
    DryRun,
    Enrollments,
    ModeField,
    MovedCourse,
    OnFullField,
    check_swap,
)
from service.api.enrollments import created, moved_course_of, write_enrollments
from service.api.fields import ExternalId, IdInBody, Input, Name
from service.api.keys import DATABASE, REGISTRAR, origin_of, submit
from service.api.students import StudentReplacement
from service.errors import CourseNotFound, Detail, DomainError, Merged, StudentNotFound, UnknownCourse
from service.registrar.bulk import Many
from service.registrar.changes import Change, Moved, Outcome, Result
from service.registrar.enrollments import Complete, Drop, Enroll, Swap
from service.registrar.resources import Replace, Replaced, Row
from service.web.endpoint import Call, Written, endpoint
from service.web.problems import InternalError, Problem, invalid, problem_of
from service.web.schema import named
from service.web.validation import MAX_ERRORS_SHOWN, wrong
from sql.courses import match_courses
from sql.merged_students import load_merged_students
from sql.students import match_students

logger = logging.getLogger(__name__)

BULK_ITEMS: Final = 1000
"""Most items of a bulk request: one transaction makes them in some tenths of a second."""

BULK_PAIRS: Final = 2000
"""Most pairs of student and course in a bulk request."""


class StudentItem(StudentReplacement):
    """A student to create or replace. A field that is left out gets its default, except the sourced id, which stays."""

    external_id: ExternalId


class CourseItem(CourseReplacement):
    """A course to create or replace. A field that is left out gets its default."""

    external_id: ExternalId


class StudentItems(Input):
    """Up to 1,000 students with different external ids."""

    items: Annotated[
        list[StudentItem],
        Field(
            min_length=1,
            max_length=BULK_ITEMS,
            fail_fast=True,
            description="The students, each with an external id of its own.",
        ),
    ]


class CourseItems(Input):
    """Up to 1,000 courses with different external ids."""

    items: Annotated[
        list[CourseItem],
        Field(
            min_length=1,
            max_length=BULK_ITEMS,
            fail_fast=True,
            description="The courses, each with an external id of its own.",
        ),
    ]


OfItem = Annotated[str, Field(description="The external id of the item.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredItem:
    """An item that is stored now."""

    external_id: OfItem
    outcome: Annotated[
        Literal["created", "updated", "unchanged"],
        named("StoredOutcome", "What became of the item; `unchanged` if it was stored like that already."),
    ]
    id: Id
    version: Version


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedItem:
    """An item that was refused: what the service has under its external id stays as it is."""

    external_id: OfItem
    outcome: Annotated[Literal["refused"], Field(description="What became of the item.")] = "refused"
    problem: Annotated[Problem, Field(description="The problem that the item would get as a call of its own.")]


AnyItemOutcome: TypeAlias = StoredItem | RefusedItem
ItemOutcome = TypeAliasType(
    "ItemOutcome",
    Annotated[AnyItemOutcome, Field(discriminator="outcome", description="What became of one item of the request.")],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemOutcomes:
    """The outcome of each item, in the order of the request."""

    items: Annotated[list[ItemOutcome], Field(description="One outcome per item, in the same order.")]


@endpoint("PUT", "/students", scope="manage", bulk=True)
async def put_students(call: Call, body: StudentItems) -> Written[ItemOutcomes]:
    """Create or replace many students by their external ids, in one transaction.

    Each item has the effect that it would have as a call of its own, and is accepted or refused on its own. An item that
    changes nothing is `unchanged` and costs almost nothing, so that you can send all students each night. If the
    transaction as a whole fails, each item is tried in its own transaction.
    """
    refuse_repeated([item.external_id for item in body.items])
    origin = origin_of(call)
    return await _replace_all(call, [students.replacement(origin, item, item.external_id) for item in body.items])


@endpoint("PUT", "/courses", scope="manage", bulk=True)
async def put_courses(call: Call, body: CourseItems) -> Written[ItemOutcomes]:
    """Create or replace many courses by their external ids, in one transaction.

    Each item has the effect that it would have as a call of its own, and is accepted or refused on its own. An item that
    changes nothing is `unchanged` and costs almost nothing. If the transaction as a whole fails, each item is tried in its
    own transaction.
    """
    refuse_repeated([item.external_id for item in body.items])
    origin = origin_of(call)
    return await _replace_all(call, [courses.replacement(origin, item, item.external_id) for item in body.items])


def refuse_repeated(external_ids: Sequence[str]) -> None:
    """Raise ``Invalid`` if items have the same external id: only their order could say which of them counts."""
    first: dict[str, int] = {}
    details = [
        Detail(
            "repeated_external_id",
            f"items/{number}/external_id is also that of items/{first[external_id]}: send each external id once.",
            pointer=f"#/items/{number}/external_id",
        )
        for number, external_id in enumerate(external_ids)
        if first.setdefault(external_id, number) != number
    ]
    if details:
        raise invalid(details[:MAX_ERRORS_SHOWN], more=len(details[MAX_ERRORS_SHOWN:]))


async def _replace_all(call: Call, changes: Sequence[Replace[Row, Any]]) -> Written[ItemOutcomes]:
    """Make the changes, and return the outcome of each."""
    outcomes = await call[REGISTRAR].replace_all(changes)
    items = [_item_outcome(call, change, outcome) for change, outcome in zip(changes, outcomes, strict=True)]
    return Written(f'{{"items":[{",".join(items)}]}}')


def _item_outcome(call: Call, change: Replace[Row, Any], outcome: Replaced[Row] | Exception) -> str:
    """Return the outcome of one item as JSON."""
    external_id = change.external_id
    if isinstance(outcome, Exception):
        path = f"/{change.resource.name}s/by-external-id/{quote(external_id, safe='')}"
        problem = problem_of(_domain_error(call, outcome), instance=path, request_id=call.request_id)
        return ITEM_OUTCOME.dump_json(RefusedItem(external_id=external_id, problem=problem)).decode()
    row = outcome.row
    text = json.dumps(external_id, ensure_ascii=False)
    return f'{{"external_id":{text},"outcome":"{outcome.outcome}","id":{row.id},"version":{row.version}}}'


def _domain_error(call: Call, error: Exception) -> DomainError:
    """Return the error of an item, and log it if it is unexpected: the other items need their outcomes."""
    if isinstance(error, DomainError):
        return error
    logger.error("unexpected error in a bulk item", exc_info=error, extra={"request_id": call.request_id})
    return InternalError.logged()


ITEM_OUTCOME: TypeAdapter[AnyItemOutcome] = TypeAdapter(ItemOutcome)


CourseExternalIds: TypeAlias = Annotated[
    list[ExternalId],
    Field(min_length=1, max_length=100, fail_fast=True, description="External ids of courses; duplicates are ignored."),
]
CourseIdsOfItem: TypeAlias = Annotated[CourseIds, Field(fail_fast=True)]
"""Validation of an item stops at the first invalid id, because 1,000 items may contain 100,000 of them."""


class BulkItem(Input):
    """One request of a bulk request, about the student with an id or an external id."""

    external: ClassVar[Mapping[str, str]]
    """The members with ids of courses, and those that have external ids in their place."""

    student_id: Annotated[IdInBody | None, Field(description="The id of the student.")] = None
    student_external_id: Annotated[
        ExternalId | None, Field(description="The external id of the student, in place of the id.")
    ] = None

    @model_validator(mode="after")
    def check_ids(self) -> Self:
        """Refuse an item that has both ids and external ids, or neither."""
        if (self.student_id is None) == (self.student_external_id is None):
            raise wrong("ids_or_external_ids", "{field} must have either student_id or student_external_id.")
        missing = {
            (getattr(self, ids) is None, getattr(self, external) is None) for ids, external in self.external.items()
        }
        if missing not in ({(False, True)}, {(True, False)}):
            either = f"{' and '.join(self.external)} or {' and '.join(self.external.values())}"
            raise wrong("ids_or_external_ids", f"{{field}} must have either {either}.")
        return self

    @property
    def has_external_courses(self) -> bool:
        """Whether the item has external ids of courses."""
        return getattr(self, next(iter(self.external))) is None

    def courses_in(self, member: str) -> list[Any]:
        """Return the ids of courses in a member, or the external ids in the member in its place."""
        value = getattr(self, member)
        if value is None:
            value = getattr(self, self.external[member])
        return value if isinstance(value, list) else [value]


class EnrollItem(BulkItem):
    """Enroll the student, as `POST /students/{student_id}/enroll` does."""

    external: ClassVar = {"course_ids": "course_external_ids"}

    action: Annotated[Literal["enroll"], Field(description="What to do; `enroll` may be left out.")] = "enroll"
    course_ids: CourseIdsOfItem | None = None
    course_external_ids: CourseExternalIds | None = None
    mode: ModeField = "atomic"
    on_full: OnFullField = "fail"


class OneCourseItem(BulkItem):
    """A request about one course."""

    external: ClassVar = {"course_id": "course_external_id"}

    course_id: Annotated[IdInBody | None, Field(description="The id of the course.")] = None
    course_external_id: Annotated[
        ExternalId | None, Field(description="The external id of the course, in place of the id.")
    ] = None


class DropItem(OneCourseItem):
    """Drop a course, as `DELETE /students/{student_id}/courses/{course_id}` does."""

    action: Annotated[Literal["drop"], Field(description="What to do.")]
    reason: Annotated[Name | None, Field(description="The reason of the drop; recorded in its events.")] = None
    as_: Annotated[
        Literal["dropped"] | None,
        Field(
            alias="as",
            description="With `dropped`, the course is dropped without a withdrawal, even after the deadlines; `reason` is "
            "then required, and the call also requires the scope `override`.",
        ),
    ] = None

    @model_validator(mode="after")
    def check_reason(self) -> Self:
        """Refuse a drop that annuls without a reason."""
        if self.as_ is not None and self.reason is None:
            raise wrong("required", '{field} must have a reason if as is "dropped".')
        return self


class SwapItem(BulkItem):
    """Drop courses and enroll in others, as `POST /students/{student_id}/swap` does."""

    external: ClassVar = {"drop": "drop_external_ids", "add": "add_external_ids"}

    action: Annotated[Literal["swap"], Field(description="What to do.")]
    drop: CourseIdsOfItem | None = None
    drop_external_ids: CourseExternalIds | None = None
    add: Annotated[AddedIds, Field(fail_fast=True)] | None = None
    add_external_ids: (
        Annotated[
            list[ExternalId],
            Field(
                max_length=100,
                fail_fast=True,
                description="External ids of courses; an empty list only drops courses, all or none.",
            ),
        ]
        | None
    ) = None
    on_full: OnFullField = "fail"

    @model_validator(mode="after")
    def check_courses(self) -> Self:
        """Refuse a course in both lists, and a waitlisted swap with several courses to add."""
        check_swap(self.courses_in("drop"), self.courses_in("add"), self.on_full)
        return self


class CompleteItem(OneCourseItem, CompletionRequest):
    """Complete a course, as `POST /students/{student_id}/courses/{course_id}/complete` does."""

    action: Annotated[
        Literal["complete"], Field(description="What to do. The call then also requires the scope `manage`.")
    ]


def _action_of(item: object) -> str:
    """Return the action of an item that is not validated yet."""
    action = item.get("action", "enroll") if isinstance(item, dict) else "enroll"
    return action if isinstance(action, str) else ""


AnyItem: TypeAlias = EnrollItem | DropItem | SwapItem | CompleteItem
TaggedItem = Annotated[
    Annotated[EnrollItem, Tag("enroll")]
    | Annotated[DropItem, Tag("drop")]
    | Annotated[SwapItem, Tag("swap")]
    | Annotated[CompleteItem, Tag("complete")],
    Discriminator(
        _action_of,
        custom_error_type="not_an_option",
        custom_error_message='{field} must have an action that is "enroll", "drop", "swap" or "complete".',
    ),
]


class BulkRequest(Input):
    """Up to 1,000 requests with up to 2,000 courses in total."""

    items: Annotated[
        list[TaggedItem],
        Field(min_length=1, max_length=BULK_ITEMS, description="The requests, which are processed in this order."),
    ]

    @model_validator(mode="after")
    def check_size(self) -> Self:
        """Refuse more pairs of student and course than one transaction accepts."""
        if sum([len(set(item.courses_in(member))) for item in self.items for member in item.external]) > BULK_PAIRS:
            raise wrong("too_many_pairs", f"items must contain at most {BULK_PAIRS:,} courses in total.")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkOutcome:
    """The result of one item: the status and body that the request would get as a call of its own."""

    status: Annotated[int, Field(description="The status that the request would get as a call of its own.")]
    body: Annotated[
        Enrollments | MovedCourse | Problem,
        Field(description="The body that the request would get as a call of its own."),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkOutcomes:
    """The result of each item, in the order of the request."""

    items: Annotated[list[BulkOutcome], Field(description="One result per item, in the same order.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkPreview(BulkOutcomes):
    """The result that each item would have; nothing was changed."""

    dry_run: Annotated[Literal[True], Field(description="Always true: nothing was changed.")] = True


@endpoint("POST", "/enrollments", scope="enroll")
async def change_enrollments(call: Call, query: DryRun, body: BulkRequest) -> Written[BulkPreview | BulkOutcomes]:
    """Change many enrollments in one transaction; each item is accepted or refused on its own.

    An item enrolls a student, drops, swaps or completes courses, by its `action`. Items are processed in their order,
    each after the changes of the items before it. A refused item does not affect the others. If the transaction as a
    whole fails, each item is tried in its own transaction, except with an Idempotency-Key: then nothing is changed, and
    the call can be repeated. Completing a course also requires the scope `manage`, and a drop with `as` the scope
    `override`.
    """
    if any(isinstance(item, CompleteItem) for item in body.items):
        call.require("manage")
    if any(isinstance(item, DropItem) and item.as_ is not None for item in body.items):
        call.require("override")
    found = await _find(call, body.items)
    asked = [_change(call, item, found) for item in body.items]
    changes = tuple([each for each in asked if isinstance(each, Change)])

    def answer_of(outcomes: Sequence[Outcome]) -> Written[BulkPreview | BulkOutcomes]:
        decided = iter(outcomes)
        items = [
            _bulk_outcome(call, item, each, next(decided) if isinstance(each, Change) else each)
            for item, each in zip(body.items, asked, strict=True)
        ]
        more = ',"dry_run":true' if query.dry_run else ""
        return Written(f'{{"items":[{",".join(items)}]{more}}}')

    if not changes:
        return answer_of(())
    if query.dry_run:
        return answer_of(await call[REGISTRAR].preview_all(changes))
    if call.idempotency_key is None:
        return answer_of(await call[REGISTRAR].submit_all(changes))
    return await submit(call, Many(origin=origin_of(call), changes=changes), answer_of)


@dataclass(frozen=True, slots=True)
class Found:
    """What the external ids of a bulk request name: ids, and the errors of students who do not exist."""

    students: Mapping[str, int | DomainError]
    courses: Mapping[str, int]


NOTHING: Final = Found({}, {})


async def _find(call: Call, items: Sequence[AnyItem]) -> Found:
    """Find what the external ids of items name; without external ids, nothing is read."""
    of_students = {item.student_external_id for item in items if item.student_external_id is not None}
    of_courses = {
        course
        for item in items
        if item.has_external_courses
        for member in item.external
        for course in item.courses_in(member)
    }
    if not of_students and not of_courses:
        return NOTHING
    students: dict[str, int | DomainError] = {id: StudentNotFound(external_id=id) for id in of_students}
    async with call[DATABASE].reading() as connection:
        courses = await match_courses(connection, sorted(of_courses), ()) if of_courses else []
        if of_students:
            for merged in await load_merged_students(connection, [], sorted(of_students)):
                assert merged.external_id is not None
                students[merged.external_id] = Merged(merged.student_id, merged.merged_into)
            for student in await match_students(connection, sorted(of_students), []):
                assert student.external_id is not None
                students[student.external_id] = student.id
    return Found(students, {course.external_id: course.id for course in courses if course.external_id is not None})


def _change(call: Call, item: AnyItem, found: Found) -> Change[Any] | DomainError:
    """Return the change that an item asks for, or the error of an external id that names nothing."""
    student_id = item.student_id
    if student_id is None:
        named = found.students[cast(str, item.student_external_id)]
        if isinstance(named, DomainError):
            return named
        student_id = named
    ids: dict[str, tuple[Any, ...]] = {member: tuple(item.courses_in(member)) for member in item.external}
    if item.has_external_courses:
        if (error := _unknown_courses(item, found)) is not None:
            return error
        ids = {member: tuple([found.courses[each] for each in named]) for member, named in ids.items()}
    origin = origin_of(call, item.reason if isinstance(item, DropItem) else None)
    match item:
        case EnrollItem():
            return Enroll(
                origin=origin,
                student_id=student_id,
                course_ids=ids["course_ids"],
                mode=item.mode,
                on_full=item.on_full,
            )
        case SwapItem():
            return Swap(origin=origin, student_id=student_id, drop=ids["drop"], add=ids["add"], on_full=item.on_full)
        case DropItem():
            [course_id] = ids["course_id"]
            return Drop(origin=origin, student_id=student_id, course_id=course_id, annuls=item.as_ is not None)
        case CompleteItem():
            [course_id] = ids["course_id"]
            return Complete(
                origin=origin, student_id=student_id, course_id=course_id, passed=item.passed, grade=item.grade
            )


def _unknown_courses(item: AnyItem, found: Found) -> DomainError | None:
    """Return the error of an item with external ids that no course has, or None."""
    unknown = [
        (f"#/{external}/{number}", course)
        for member, external in item.external.items()
        for number, course in enumerate(item.courses_in(member))
        if course not in found.courses
    ]
    if not unknown:
        return None
    if isinstance(item, OneCourseItem):
        return CourseNotFound(external_id=unknown[0][1])
    sentence = "No course has the external id {}."
    return UnknownCourse([Detail(UnknownCourse.code, sentence.format(id), pointer=place) for place, id in unknown])


def _bulk_outcome(call: Call, item: AnyItem, asked: Change[Any] | DomainError, outcome: Outcome) -> str:
    """Return the result of one item as JSON."""
    if isinstance(outcome, Exception):
        error = _domain_error(call, outcome)
        problem = problem_of(error, instance=_path(call, asked), request_id=call.request_id)
        if item.has_external_courses:
            _point_to_external_ids(problem, item)
        return BULK_OUTCOME.dump_json(BulkOutcome(status=error.status, body=problem)).decode()
    if isinstance(outcome, Moved):
        return BULK_OUTCOME.dump_json(BulkOutcome(status=200, body=moved_course_of(outcome))).decode()
    results = cast(tuple[Result, ...], outcome)
    student_id = cast(Enroll | Swap, asked).student_id
    return f'{{"status":{201 if created(results) else 200},"body":{write_enrollments(student_id, results)}}}'


def _path(call: Call, asked: Change[Any] | DomainError) -> str:
    """Return the path that an item would have as a call of its own, or that of the bulk request if it names nothing."""
    match asked:
        case Enroll():
            return f"/students/{asked.student_id}/enroll"
        case Swap():
            return f"/students/{asked.student_id}/swap"
        case Drop():
            return f"/students/{asked.student_id}/courses/{asked.course_id}"
        case Complete():
            return f"/students/{asked.student_id}/courses/{asked.course_id}/complete"
        case _:
            return call.request.rel_url.raw_path


def _point_to_external_ids(problem: Problem, item: AnyItem) -> None:
    """Let the errors of a problem point to the external ids of an item in place of the ids that it does not have."""
    for error in problem.errors:
        _, _, place = error.get("pointer", "").partition("#/")
        member, _, number = place.partition("/")
        if number and member in item.external:
            error["pointer"] = f"#/{item.external[member]}/{number}"


BULK_OUTCOME = TypeAdapter(BulkOutcome)
