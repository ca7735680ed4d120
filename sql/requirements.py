"""Statements about requirements: the courses that a student must, or must not, have taken for a course."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

from sql import Connection, columns

RequirementKind: TypeAlias = Literal["pre", "co", "anti"]


@dataclass(frozen=True, slots=True)
class Requirement:
    """One code in one group of a course's requirements."""

    course_id: int
    kind: RequirementKind
    group_number: int
    code: str
    min_grade: str | None = None
    in_progress: bool = False


LOAD_REQUIREMENTS: Final = """
SELECT course_id, kind, group_number, code, min_grade, in_progress
FROM requirements
WHERE course_id = ANY($1::bigint[])
UNION
SELECT course_id, kind, group_number, code, min_grade, in_progress
FROM requirements
WHERE kind IN ('anti', 'co')
    AND lower(code) = ANY(ARRAY(SELECT lower(requested.code) FROM unnest($2::text[]) AS requested (code)))
UNION
SELECT course_id, kind, group_number, code, min_grade, in_progress
FROM requirements
WHERE in_progress
    AND lower(code) = ANY(ARRAY(SELECT lower(requested.code) FROM unnest($2::text[]) AS requested (code)))
ORDER BY course_id, group_number, code
"""


async def load_requirements(connection: Connection, course_ids: list[int], codes: list[str]) -> list[Requirement]:
    """Load the requirements of courses, and those by which any course depends on seats in courses with one of ``codes``.

    The latter exclude such a course, require it together with the other one, or allow it to be in progress.
    """
    return [Requirement(*row) for row in await connection.fetch(LOAD_REQUIREMENTS, course_ids, codes)]


FIND_DEPENDENTS: Final = """
SELECT course_id
FROM requirements
WHERE kind = 'co'
    AND lower(code) = ANY(ARRAY(SELECT lower(requested.code) FROM unnest($1::text[]) AS requested (code)))
"""


async def find_dependents(connection: Connection, codes: list[str]) -> list[int]:
    """Return the courses that name one of these codes as a corequisite."""
    return sorted({row[0] for row in await connection.fetch(FIND_DEPENDENTS, codes)})


LOAD_MIN_GRADES: Final = """
SELECT course_id, min_grade
FROM requirements
WHERE min_grade IS NOT NULL
"""


class MinGrade(NamedTuple):
    """A course, and a grade with which a course of one of its groups must be passed."""

    course_id: int
    min_grade: str


async def load_min_grades(connection: Connection) -> list[MinGrade]:
    """Load the courses that require grades, once for each code."""
    return [MinGrade._make(row) for row in await connection.fetch(LOAD_MIN_GRADES)]


CLEAR_REQUIREMENTS: Final = """
DELETE FROM requirements
WHERE course_id = ANY($1::bigint[])
"""


async def clear_requirements(connection: Connection, course_ids: list[int]) -> None:
    """Delete all requirements of courses."""
    await connection.execute(CLEAR_REQUIREMENTS, course_ids)


ADD_REQUIREMENTS: Final = """
INSERT INTO requirements (course_id, kind, group_number, code, min_grade, in_progress)
SELECT
    unnest($1::bigint[]), unnest($2::text[]), unnest($3::bigint[]), unnest($4::text[]), unnest($5::text[]),
    unnest($6::boolean[])
FROM feed
"""


async def add_requirements(connection: Connection, requirements: Sequence[Requirement]) -> None:
    """Insert the requirements of courses that have none yet."""
    await connection.execute(ADD_REQUIREMENTS, *columns(requirements))
