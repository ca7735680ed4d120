"""Statements about the grade scale of the institution."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from sql import Connection, columns


class Grade(NamedTuple):
    """A grade of the scale."""

    grade: str
    passes: bool


LOAD_GRADES: Final = """
SELECT grade, passes
FROM grades
ORDER BY number
"""


async def load_grades(connection: Connection) -> list[Grade]:
    """Load the grade scale, from the best grade on; it is empty if there is none."""
    return [Grade._make(row) for row in await connection.fetch(LOAD_GRADES)]


CLEAR_GRADES: Final = """
DELETE FROM grades
"""


async def clear_grades(connection: Connection) -> None:
    """Delete the grade scale."""
    await connection.execute(CLEAR_GRADES)


ADD_GRADES: Final = """
INSERT INTO grades (number, grade, passes)
SELECT unnest($1::bigint[]), unnest($2::text[]), unnest($3::boolean[])
FROM feed
"""


class NumberedGrade(NamedTuple):
    """A grade of the scale with its number: the best grade has the lowest."""

    number: int
    grade: str
    passes: bool


async def add_grades(connection: Connection, grades: Sequence[NumberedGrade]) -> None:
    """Insert a grade scale; there must be none."""
    await connection.execute(ADD_GRADES, *columns(grades))
