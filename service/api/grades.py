"""The grade scale of the institution: models and handlers."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from service.api.fields import Grade, Input
from service.api.keys import DATABASE, REGISTRAR, origin_of
from service.errors import GradeInUse
from service.registrar import application
from service.registrar.grades import SetGradeScale
from service.web.endpoint import Call, endpoint
from service.web.validation import wrong
from sql.grades import load_grades


class GradeOnScale(Input):
    """A grade of the scale."""

    grade: Annotated[Grade, Field(description="The grade, such as `A-`; case matters.")]
    passes: Annotated[bool, Field(description="Whether a student with this grade has passed the course.")]


def _distinct(grades: list[GradeOnScale]) -> list[GradeOnScale]:
    """Refuse a grade that appears twice."""
    if len({each.grade for each in grades}) < len(grades):
        raise wrong("repeated_grade", "{field} must not contain a grade twice.")
    return grades


class GradeScaleRequest(Input):
    """The grade scale to set."""

    grades: Annotated[
        list[GradeOnScale],
        Field(max_length=100, description="The grades, from the best on; an empty list is no scale."),
        AfterValidator(_distinct),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class GradeScale:
    """The grade scale of the institution."""

    grades: Annotated[
        list[GradeOnScale], Field(description="The grades, from the best on; empty if there is no scale.")
    ]


def _scale_of(scale: application.GradeScale) -> GradeScale:
    return GradeScale(grades=[GradeOnScale(grade=each.grade, passes=each.passes) for each in scale.grades])


@endpoint("PUT", "/grade-scale", scope="manage", problems=[GradeInUse])
async def set_grade_scale(call: Call, body: GradeScaleRequest) -> GradeScale:
    """Set the grade scale of the institution; an empty list removes it.

    A grade that a requirement names as its `min_grade` can't be removed. Completed courses keep their grades and results.
    Waitlisted students who become eligible by another order of the grades get seats.
    """
    grades = tuple([application.Grade(each.grade, each.passes) for each in body.grades])
    return _scale_of(await call[REGISTRAR].submit(SetGradeScale(origin=origin_of(call), grades=grades)))


@endpoint("GET", "/grade-scale", scope="read")
async def read_grade_scale(call: Call) -> GradeScale:
    """Read the grade scale of the institution.

    Without a scale, the list of grades is empty.
    """
    async with call[DATABASE].reading() as connection:
        return _scale_of(application.GradeScale(tuple(await load_grades(connection))))
