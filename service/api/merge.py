"""Merging the double records of a student."""

from typing import Annotated

from pydantic import Field

from service.api.fields import IdInBody, IdInPath, Input, Name
from service.api.keys import AUTHENTICATOR, origin_of, submit
from service.api.students import Student, student_of
from service.database import Database
from service.errors import (
    AlreadyMerged,
    DomainError,
    Merged,
    MergeOfErased,
    MergeWithItself,
    StudentNotFound,
    UnknownStudent,
)
from service.registrar.merge import Merge
from service.web.endpoint import Call, endpoint
from sql.merged_students import load_merged_students


class MergeRequest(Input):
    """The duplicate to merge into the student, and the reason."""

    student_id: Annotated[IdInBody, Field(description="The id of the duplicate, which is gone afterwards.")]
    reason: Annotated[
        Name, Field(description="Why the records are merged; recorded in the events.", examples=["Enrolled twice"])
    ]


@endpoint(
    "POST",
    "/students/{student_id}/merge",
    scope="merge",
    problems=[StudentNotFound, UnknownStudent, MergeWithItself, AlreadyMerged, MergeOfErased],
    final=True,
)
async def merge_student(call: Call, student_id: IdInPath, body: MergeRequest) -> Student:
    """Merge a duplicate into a student.

    The student gets the enrollments, holds, overrides, refusals and the history of the duplicate. Where both have an
    enrollment in a course, the stronger one stands: completed, enrolled, waitlisted, withdrawn, dropped. A seat that is given
    back goes to the waitlist in the same transaction. The fields of the student stay as they are. Afterwards every call about
    the duplicate gets 410 `merged`.
    """
    change = Merge(origin=origin_of(call, body.reason), student_id=student_id, duplicate_id=body.student_id)
    answer = await submit(call, change, student_of)
    # A token of the duplicate named a student who is gone.
    call[AUTHENTICATOR].forget(call.caller.institution)
    return answer


async def find_merged(database: Database, error: StudentNotFound) -> DomainError:
    """Return the error of a student who was merged into another one, or else the given error."""
    ids = [] if error.student_id is None else [error.student_id]
    external_ids = [] if error.external_id is None else [error.external_id]
    async with database.reading() as connection:
        found = await load_merged_students(connection, ids, external_ids)
    return Merged(found[0].student_id, found[0].merged_into) if found else error
