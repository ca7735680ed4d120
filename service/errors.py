"""Domain errors, each with a code, an HTTP status and a message.

This module imports neither HTTP nor SQL code, so that the registrar can raise what the web layer answers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import ClassVar, Self


class OperatorError(Exception):
    """An error that does not indicate a bug: a command prints its message without a traceback."""


@dataclass(frozen=True, slots=True)
class Detail:
    """One reason within an error: its place in the request and, in ``params``, the numbers behind it.

    ``pointer`` is a JSON pointer into the body as a URI fragment (RFC 6901 section 6); ``parameter`` names a
    parameter of the path or the query, or a header.
    """

    code: str
    detail: str
    pointer: str | None = None
    parameter: str | None = None
    params: Mapping[str, object] = field(default_factory=dict)


MAX_RETRY_SECONDS = 60
"""Upper bound of ``Retry-After``, even if the expected wait is longer."""


class DomainError(OperatorError):
    """A request that is refused or fails. ``code`` and ``status`` are stable; sentences may be reworded."""

    code: str
    status: ClassVar[int]
    title: str
    retry_after: int | None = None
    """Seconds to wait before the next try; None sends no ``Retry-After``."""

    def __init__(self, detail: str, errors: Sequence[Detail] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)


class FieldError(DomainError):
    """An error with one detail, which names its place in the request."""

    def __init__(self, sentence: str, *, pointer: str | None = None, parameter: str | None = None) -> None:
        super().__init__(sentence, [Detail(self.code, sentence, pointer, parameter)])


class StudentNotFound(DomainError):
    """No student has this id or external id."""

    code, status, title = "student_not_found", 404, "Student not found"

    def __init__(self, student_id: int | None = None, *, external_id: str | None = None) -> None:
        by_id = f"There is no student {student_id}."
        super().__init__(by_id if external_id is None else f"No student has the external id {external_id}.")
        self.student_id, self.external_id = student_id, external_id


class Merged(DomainError):
    """The student is a duplicate that was merged into another student: use the id in `merged_into` instead."""

    code, status, title = "merged", 410, "Merged"

    def __init__(self, student_id: int, merged_into: int) -> None:
        sentence = f"Student {student_id} was merged into student {merged_into}: use that id instead."
        super().__init__(sentence, [Detail(self.code, sentence, params={"merged_into": merged_into})])


class MergeWithItself(FieldError):
    """A student can't be merged with itself."""

    code, status, title = "merge_with_itself", 422, "Merge with itself"

    def __init__(self) -> None:
        sentence = "student_id must name the duplicate: another student than the one in the path, who stays."
        super().__init__(sentence, pointer="#/student_id")


class UnknownStudent(FieldError):
    """The body names a student who does not exist."""

    code, status, title = "unknown_student", 422, "Unknown student"

    def __init__(self, student_id: int) -> None:
        super().__init__(f"There is no student {student_id}.", pointer="#/student_id")


class AlreadyMerged(DomainError):
    """The duplicate was merged before: `merged_into` names the student."""

    code, status, title = "already_merged", 409, "Already merged"

    def __init__(self, student_id: int, merged_into: int) -> None:
        sentence = f"Student {student_id} was already merged into student {merged_into}."
        super().__init__(
            sentence, [Detail(self.code, sentence, pointer="#/student_id", params={"merged_into": merged_into})]
        )


class MergeOfErased(DomainError):
    """One of the two students was erased: a merge would connect the data with a person again."""

    code, status, title = "merge_of_erased", 409, "Merge of an erased student"

    def __init__(self, student_id: int) -> None:
        super().__init__(f"Student {student_id} was erased: an erased student can't be merged.")


class CourseNotFound(DomainError):
    """No course has this id or external id."""

    code, status, title = "course_not_found", 404, "Course not found"

    def __init__(self, course_id: int | None = None, *, external_id: str | None = None) -> None:
        by_id = f"There is no course {course_id}."
        super().__init__(by_id if external_id is None else f"No course has the external id {external_id}.")


class InstructorNotFound(DomainError):
    """No instructor has this id or external id."""

    code, status, title = "instructor_not_found", 404, "Instructor not found"

    def __init__(self, instructor_id: int | None = None, *, external_id: str | None = None) -> None:
        by_id = f"There is no instructor {instructor_id}."
        super().__init__(by_id if external_id is None else f"No instructor has the external id {external_id}.")


class TermNotFound(DomainError):
    """No term has this id."""

    code, status, title = "term_not_found", 404, "Term not found"

    def __init__(self, term_id: int) -> None:
        super().__init__(f"There is no term {term_id}.")


class NameRequired(FieldError):
    """A student or an instructor needs a given name or a family name, or both."""

    code, status, title = "name_required", 422, "Name required"

    def __init__(self) -> None:
        sentence = "Send given_name, family_name or both: at least one of them must have a value."
        DomainError.__init__(
            self, sentence, [Detail(self.code, sentence, f"#/{name}") for name in ("given_name", "family_name")]
        )


class UnknownInstructor(FieldError):
    """The body names an instructor who does not exist."""

    code, status, title = "unknown_instructor", 422, "Unknown instructor"

    def __init__(self, instructor_id: int, pointer: str = "#/instructors") -> None:
        super().__init__(f"There is no instructor {instructor_id}.", pointer=pointer)


class UnknownTerm(FieldError):
    """The body names a term that does not exist."""

    code, status, title = "unknown_term", 422, "Unknown term"

    def __init__(self, term_id: int | None = None, field: str = "term_id") -> None:
        sentence = f"{field} refers to a term that does not exist."
        if term_id is not None:
            sentence = f"There is no term {term_id}."
        super().__init__(sentence, pointer=f"#/{field}")


class WebhookNotFound(DomainError):
    """No webhook has this id."""

    code, status, title = "webhook_not_found", 404, "Webhook not found"

    def __init__(self, webhook_id: int) -> None:
        super().__init__(f"There is no webhook {webhook_id}.")


class WebhookUrlRefused(FieldError):
    """The URL is malformed, or events may not be sent there: without `https`, or to an address that is not public.

    An operator can list hosts in `WEBHOOK_HOSTS`, which may have private addresses and be reached over `http`.
    """

    code, status, title = "webhook_url_refused", 422, "Webhook URL refused"

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, pointer="#/url")


class WebhookLimitReached(DomainError):
    """The institution has as many webhooks as it may have: delete one first."""

    code, status, title = "webhook_limit_reached", 409, "Too many webhooks"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The institution has {limit} webhooks, the most that it may have: delete one first.")


class UnknownPosition(FieldError):
    """The position is beyond the next event of the feed."""

    code, status, title = "unknown_position", 422, "Unknown position"

    def __init__(self, position: int, newest: int) -> None:
        super().__init__(
            f"The feed has no position {position} yet: its newest event has the position {newest}. Send null to start with the "
            "next event.",
            pointer="#/from_position",
        )


class InstitutionNotFound(DomainError):
    """No institution has this name."""

    code, status, title = "institution_not_found", 404, "Institution not found"

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no institution {name}.")


class InstitutionRequired(DomainError):
    """The call is about an institution, and the request names none.

    With AUTH=off, send its name in X-Institution. A key of the registry belongs to no institution: use a key of the
    institution.
    """

    code, status, title = "institution_required", 400, "Institution required"

    def __init__(self) -> None:
        super().__init__(
            "This call is about an institution: use a key of the institution, or, with AUTH=off, send X-Institution."
        )


class InstitutionNameTaken(FieldError):
    """Another institution has this name."""

    code, status, title = "institution_name_taken", 409, "Name taken"

    def __init__(self, name: str) -> None:
        super().__init__(f"There is already an institution {name}.", pointer="#/name")


class InstitutionSchemaTaken(FieldError):
    """The schema belongs to another institution."""

    code, status, title = "institution_schema_taken", 409, "Schema taken"

    def __init__(self) -> None:
        super().__init__("Another institution has this schema.", pointer="#/name")


class InstitutionNotSuspended(DomainError):
    """Only an institution that has been suspended for some seconds can be dropped."""

    code, status, title = "institution_not_suspended", 409, "Institution not suspended"

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(
            f"Suspend the institution {name} first; {seconds:g} seconds later, when no process serves it, drop it."
        )


class InstitutionSuspended(DomainError):
    """The institution is suspended: it accepts no calls until an operator resumes it."""

    code, status, title = "institution_suspended", 403, "Institution suspended"

    def __init__(self, name: str) -> None:
        super().__init__(f"The institution {name} is suspended.")


class InstitutionReadOnly(DomainError):
    """The institution is read-only: it accepts no changes until an operator resumes it."""

    code, status, title = "institution_read_only", 403, "Institution read-only"

    def __init__(self, name: str) -> None:
        super().__init__(f"The institution {name} is read-only.")


class RegistryMissing(DomainError):
    """The service serves one institution: it has no registry."""

    code, status, title = "registry_missing", 404, "No registry"

    def __init__(self) -> None:
        super().__init__("This service serves one institution; set REGISTRY_SCHEMA to serve many.")


class ImportNotFound(DomainError):
    """No import has this id, or it was deleted after its time."""

    code, status, title = "import_not_found", 404, "Import not found"

    def __init__(self, import_id: int) -> None:
        super().__init__(f"There is no import {import_id}.")


class NoPlan(DomainError):
    """The import has no plan yet, or none any more: its files are being read, can't be read, or it was cancelled."""

    code, status, title = "no_plan", 409, "No plan"

    def __init__(self, import_id: int, state: str) -> None:
        super().__init__(
            f"Import {import_id} is {state}, and has no plan: wait until it is planned, or send the files again."
        )


class PlanRefused(DomainError):
    """The plan of the import can't be confirmed: it drops too many rows, refuses some, or another import overtook it."""

    code, status, title = "plan_refused", 409, "Plan refused"


class ExportNotFound(DomainError):
    """No export has this id, or it was deleted after its time."""

    code, status, title = "export_not_found", 404, "Export not found"

    def __init__(self, export_id: int) -> None:
        super().__init__(f"There is no export {export_id}.")


class NoFile(DomainError):
    """The export has no file yet, or none any more: it is being written, has failed, or is too old."""

    code, status, title = "no_file", 409, "No file"

    def __init__(self, export_id: int, state: str) -> None:
        super().__init__(f"Export {export_id} is {state}, and has no file: wait until it is done, or make another one.")


class HoldNotFound(DomainError):
    """The student has no hold with this id."""

    code, status, title = "hold_not_found", 404, "Hold not found"

    def __init__(self, hold_id: int) -> None:
        super().__init__(f"The student has no hold {hold_id}.")


class OverrideNotFound(DomainError):
    """The student has no override with this id."""

    code, status, title = "override_not_found", 404, "Override not found"

    def __init__(self, override_id: int) -> None:
        super().__init__(f"The student has no override {override_id}.")


class CodeTaken(FieldError):
    """Another term already uses this code, or another course of the term uses the code with the same section."""

    code, status, title = "code_taken", 409, "Code taken"

    def __init__(self) -> None:
        sentence = (
            "This code is already in use: codes are unique among terms, and a code with its section among the courses of "
            "a term that are not cancelled. Choose another code or section."
        )
        super().__init__(sentence, pointer="#/code")


class EquivalenceNotFound(DomainError):
    """No set of equivalent codes has this id."""

    code, status, title = "equivalence_not_found", 404, "Equivalence not found"

    def __init__(self, equivalence_id: int) -> None:
        super().__init__(f"There is no set of equivalent codes {equivalence_id}.")


class CodeInAnotherSet(FieldError):
    """A set of equivalent codes already has this code, and a code is in at most one set."""

    code, status, title = "code_in_another_set", 409, "Code in another set"

    def __init__(self, code: str | None = None, equivalence_id: int | None = None, number: int = 0) -> None:
        sentence = "A code is in another set of equivalent codes: delete that set, and create one with all the codes."
        if code is not None:
            sentence = (
                f"{code} is in the set {equivalence_id} of equivalent codes: delete that set, and create one with all "
                "the codes."
            )
        super().__init__(sentence, pointer=f"#/codes/{number}")


class OwnRequirement(FieldError):
    """A course can't require its own code."""

    code, status, title = "own_requirement", 422, "A course can't require its own code"

    def __init__(self, course_code: str, pointer: str = "#/code") -> None:
        super().__init__(f"A course cannot require its own code, {course_code}.", pointer=pointer)


class UnknownGrade(FieldError):
    """A grade is not in the grade scale of the institution, or there is no scale to which it could belong."""

    code, status, title = "unknown_grade", 422, "Unknown grade"

    def __init__(self, grade: str, pointer: str) -> None:
        super().__init__(
            f"{grade} is not in the grade scale: choose one of its grades, or add this one with PUT /grade-scale.",
            pointer=pointer,
        )


class InvalidResult(FieldError):
    """The result of a course is missing, or it does not agree with the grade scale."""

    code, status, title = "invalid_result", 422, "Invalid result"

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, pointer="#/passed")


class GradeInUse(FieldError):
    """A requirement needs a grade that the new grade scale lacks."""

    code, status, title = "grade_in_use", 409, "Grade in use"

    def __init__(self, grade: str, course_id: int) -> None:
        super().__init__(
            f"Course {course_id} requires the grade {grade}: keep it in the scale, or change the requirements first.",
            pointer="#/grades",
        )


class ReservationsAboveCapacity(FieldError):
    """The reservations of a course that have not ended have more seats than the course."""

    code, status, title = "reservations_above_capacity", 422, "Reservations above the capacity"

    def __init__(self, reserved: int, capacity: int, pointer: str) -> None:
        sentence = (
            f"The reservations of the course have {reserved} seats, and the capacity would be {capacity}: reserve fewer seats "
            "first, or choose a larger capacity."
        )
        super().__init__(sentence, pointer=pointer)


class TermDates(FieldError):
    """Two dates of a term are in the wrong order."""

    code, status, title = "term_dates", 422, "Dates out of order"

    def __init__(self, first: str = "starts_on", second: str = "ends_on") -> None:
        super().__init__(f"{first} must not be after {second}.", pointer=f"#/{first}")


class InvalidPart(FieldError):
    """A part of a term does not lie within the term, or is a part of a part."""

    code, status, title = "invalid_part", 422, "Not a part of the term"

    @classmethod
    def of_itself(cls) -> Self:
        """Return the error of a term that names itself."""
        return cls("A term can't be a part of itself: parent_id must be another term, or null.", pointer="#/parent_id")

    @classmethod
    def of_part(cls, parent_id: int) -> Self:
        """Return the error of a term whose parent is a part itself."""
        sentence = f"Term {parent_id} is a part of another term: parent_id must be a whole term, or null."
        return cls(sentence, pointer="#/parent_id")

    @classmethod
    def with_parts(cls, part_id: int) -> Self:
        """Return the error of a part that has a part."""
        sentence = f"Term {part_id} is a part of this term, which can't become a part itself: parent_id must be null."
        return cls(sentence, pointer="#/parent_id")

    @classmethod
    def outside(cls, field: str, side: str, other_id: int, day: date) -> Self:
        """Return the error of a date on the wrong side of the date of the parent, or of a part."""
        sentence = (
            f"{field} must not be {side} {day}, which is that of term {other_id}: change one of both terms first."
        )
        return cls(sentence, pointer=f"#/{field}")


class MeetingDates(FieldError):
    """A meeting takes place on no date, or its weeks can't be counted."""

    code, status, title = "meeting_dates", 422, "A meeting without dates"

    @classmethod
    def on_no_date(cls, place: int, first: date, last: date) -> Self:
        """Return the error of a meeting that takes place on none of its possible dates."""
        return cls(
            f"meetings/{place} takes place on no date from {first} until {last}: correct its day or its dates.",
            pointer=f"#/meetings/{place}",
        )

    @classmethod
    def without_first_week(cls, place: int) -> Self:
        """Return the error of a meeting whose weeks have nothing to be counted from."""
        return cls(
            f"The weeks of meetings/{place} can't be counted: give it a from, or give the course a term.",
            pointer=f"#/meetings/{place}/every_weeks",
        )


class AlreadyCompleted(DomainError):
    """The student has completed this offering of the course, and cannot drop it or enroll in it again."""

    code, status, title = "already_completed", 409, "Already completed"

    def __init__(self, course_id: int) -> None:
        super().__init__(
            f"The student has completed course {course_id}: a completed course cannot be dropped until its completion is removed."
        )


class NotEnrolled(DomainError):
    """The student is not enrolled in the course, and therefore cannot complete it or swap it for another course."""

    code, status, title = "not_enrolled", 409, "Not enrolled"

    def __init__(self, student_id: int, course_id: int) -> None:
        super().__init__(f"Student {student_id} is not enrolled in course {course_id}.")


class NotCompleted(DomainError):
    """The student has not completed the course, and therefore no completion can be taken back."""

    code, status, title = "not_completed", 409, "Not completed"

    def __init__(self, student_id: int, course_id: int) -> None:
        super().__init__(f"Student {student_id} has not completed course {course_id}.")


class CourseCancelled(DomainError):
    """The course is cancelled: nobody can be enrolled in it until it is reopened."""

    code, status, title = "course_cancelled", 409, "Course cancelled"

    def __init__(self, course_id: int) -> None:
        super().__init__(f"Course {course_id} is cancelled, and nobody can be enrolled in it: reopen it first.")


class DropRefused(DomainError):
    """Nothing was dropped: ``errors`` lists every reason. If all reasons have one code, the problem has that code."""

    code, status, title = "drop_refused", 409, "Drop refused"

    def __init__(self, errors: Sequence[Detail]) -> None:
        super().__init__("Nothing was dropped. " + " ".join(error.detail for error in errors), errors)
        self.code, self.title = _common(errors) or (self.code, self.title)


class EnrollmentNotFound(DomainError):
    """The student has never been enrolled in the course or waitlisted for it."""

    code, status, title = "enrollment_not_found", 404, "Enrollment not found"

    def __init__(self, student_id: int, course_id: int) -> None:
        super().__init__(f"Student {student_id} has never been enrolled in course {course_id}.")


class EnrollmentRefused(DomainError):
    """Nothing was changed: ``errors`` lists every reason for every course.

    If all reasons have one code, the problem has that code.
    """

    code, status, title = "enrollment_refused", 409, "Enrollment refused"

    def __init__(self, errors: Sequence[Detail]) -> None:
        super().__init__("Nothing was changed. " + " ".join(error.detail for error in errors), errors)
        self.code, self.title = _common(errors) or (self.code, self.title)


def _common(errors: Sequence[Detail]) -> tuple[str, str] | None:
    """Return the code that all details share, and its title; return None if their codes differ."""
    codes = {error.code for error in errors}
    if len(codes) != 1:
        return None
    [code] = codes
    return code, code.replace("_", " ").capitalize()


class UnknownCourse(DomainError):
    """The body names a course that does not exist.

    Nothing was changed: ``errors`` lists every reason for every course.
    """

    code, status, title = "unknown_course", 422, "Unknown course"

    def __init__(self, errors: Sequence[Detail]) -> None:
        super().__init__("Nothing was changed. " + " ".join(error.detail for error in errors), errors)


class EmailTaken(FieldError):
    """Another student, or another instructor, already uses this e-mail address; case is ignored."""

    code, status, title = "email_taken", 409, "E-mail address taken"

    def __init__(self) -> None:
        super().__init__("This e-mail address is already in use (case is ignored).", pointer="#/email")


class ExternalIdTaken(FieldError):
    """Another student, instructor or course already uses this external id."""

    code, status, title = "external_id_taken", 409, "External id taken"

    def __init__(self) -> None:
        super().__init__("This external id is already in use.", pointer="#/external_id")


class SourcedIdTaken(FieldError):
    """Another person, be it a student or an instructor, has this sourced id."""

    code, status, title = "sourced_id_taken", 409, "Sourced id taken"

    def __init__(self) -> None:
        super().__init__("Another student or instructor has this sourced id.", pointer="#/sourced_id")


class ApiKeyNotFound(DomainError):
    """There is no API key with this id."""

    code, status, title = "api_key_not_found", 404, "API key not found"

    def __init__(self, key_id: int) -> None:
        super().__init__(f"There is no API key {key_id}.")


class ApiKeyNameTaken(FieldError):
    """Another API key has this name; the name of a revoked key stays taken, since events have it."""

    code, status, title = "api_key_name_taken", 409, "API key name taken"

    def __init__(self) -> None:
        super().__init__("Another API key has this name.", pointer="#/name")


class ApiKeyRevoked(DomainError):
    """The API key is revoked, which cannot be undone."""

    code, status, title = "api_key_revoked", 409, "API key revoked"

    def __init__(self, key_id: int) -> None:
        super().__init__(f"The API key {key_id} is revoked; create another one.")


class InUse(DomainError):
    """The student or course has enrollment history, the term has courses or parts, or the instructor teaches or taught a course:
    none of these can be deleted.
    """

    code, status, title = "in_use", 409, "In use"

    def __init__(self, resource: str = "The resource") -> None:
        super().__init__(
            f"{resource} cannot be deleted: students and courses with enrollment history are kept, "
            "and so are terms with courses or parts and instructors who teach or taught a course."
        )


class PreconditionFailed(DomainError):
    """The resource does not have a version that If-Match names, or has one that If-None-Match names."""

    code, status, title = "precondition_failed", 412, "Precondition failed"

    @classmethod
    def of_if_match(cls, detail: str, tags: frozenset[str]) -> Self:
        """Return the error of If-Match; it explains weak tags, which match nothing and are made by proxies."""
        for tag in sorted(tags):
            if tag.startswith("W/"):
                detail += (
                    f" The weak tag {tag} never matches: the ETag of a course is weak, and a proxy that compresses answers "
                    f"makes others weak. Send {tag.removeprefix('W/')} instead."
                )
        return cls(detail)


class PreconditionUnsupported(DomainError):
    """The call was sent with If-Match or If-None-Match, which it does not support. Nothing was changed."""

    code, status, title = "precondition_unsupported", 412, "Precondition unsupported"

    def __init__(self, header: str) -> None:
        super().__init__(f"This call does not support {header}: send it without that header.")


class IdempotencyKeyReused(DomainError):
    """The caller has sent this Idempotency-Key with another request. Nothing was changed."""

    code, status, title = "idempotency_key_reused", 422, "Idempotency key reused"

    def __init__(self) -> None:
        super().__init__(
            "This Idempotency-Key was sent with another path, query or body: send a new key with each new request."
        )


class IdempotencyKeyInUse(DomainError):
    """A request of the caller with this Idempotency-Key is being served. Nothing was changed by this one."""

    code, status, title = "idempotency_key_in_use", 409, "Idempotency key in use"
    retry_after = 1

    def __init__(self) -> None:
        super().__init__(
            "A request with this Idempotency-Key is being served: repeat this one shortly to get its answer."
        )


class IdempotencyKeyUnsupported(DomainError):
    """The call was sent with Idempotency-Key, but its answer is never stored: it may be a secret. Nothing was changed."""

    code, status, title = "idempotency_key_unsupported", 422, "Idempotency key unsupported"

    def __init__(self) -> None:
        super().__init__(
            "The answer of this call is never stored, since it may be a secret: send it without Idempotency-Key."
        )


class Unavailable(DomainError):
    """The database is unreachable or too busy. Nothing was changed."""

    code, status, title = "unavailable", 503, "Unavailable"
    retry_after = 1

    def __init__(self, detail: str, retry_after: int = retry_after) -> None:
        super().__init__(detail)
        self.retry_after = min(max(retry_after, 1), MAX_RETRY_SECONDS)

    @classmethod
    def overloaded(cls, wait: float) -> "Unavailable":
        """Return the error for a request that would wait too long, with the seconds of that wait."""
        return cls("Too many requests are queued; try again after the time in Retry-After.", math.ceil(wait))


class BeingMigrated(Unavailable):
    """The schema of the institution is being created or migrated. Nothing was changed."""

    code, title = "being_migrated", "Being migrated"

    def __init__(self, name: str) -> None:
        super().__init__(f"The schema of the institution {name} is being created or migrated; try again shortly.", 5)


class PromotionsPending(Unavailable):
    """Waitlisted students come first, and one transaction cannot promote all of them. Nothing was changed."""

    code, title = "promotions_pending", "Promotions pending"

    def __init__(self, course_id: int) -> None:
        super().__init__(f"Students waitlisted for course {course_id} are being promoted; try again shortly.")


class OutcomeUnknown(DomainError):
    """The connection to the database broke during the commit: the change may or may not have been made."""

    code, status, title = "outcome_unknown", 503, "Outcome unknown"
    retry_after = 1

    def __init__(self) -> None:
        super().__init__(
            "The connection to the database broke during the commit, and the change may have been made: "
            "repeat the call if it has an Idempotency-Key or is safe to repeat; otherwise read the state."
        )


CONSTRAINTS: Mapping[str, type[DomainError]] = {
    "students_email_key": EmailTaken,
    "students_external_id_key": ExternalIdTaken,
    "students_sourced_id_key": SourcedIdTaken,
    "instructors_email_key": EmailTaken,
    "instructors_external_id_key": ExternalIdTaken,
    "instructors_sourced_id_key": SourcedIdTaken,
    "courses_external_id_key": ExternalIdTaken,
    "courses_term_id_code_section_key": CodeTaken,
    "courses_term_id_fkey": UnknownTerm,
    "terms_code_key": CodeTaken,
    "equivalent_codes_code_key": CodeInAnotherSet,
    "api_keys_name_key": ApiKeyNameTaken,
    "institutions_schema_name_key": InstitutionSchemaTaken,
    "student_courses_student_id_fkey": InUse,
    "student_courses_course_id_fkey": InUse,
    "course_instructors_instructor_id_fkey": InUse,
    "merged_students_merged_into_fkey": InUse,
}
"""The error that the violation of a constraint raises. A violation of any other constraint is a bug of the service."""
