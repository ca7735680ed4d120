"""The sourcedIds of what has no sourced id in its row: OneRoster names terms, courses, classes and enrollments by them.

People have a sourced id of their own. The ids of a row never change, so neither do these, and no two kinds share one.
Statements write them as, for example, ``'class-' || id`` and ``'course-' || md5(lower(code))``.
"""

import re
from hashlib import md5
from typing import Final

WITHOUT_TERM: Final = "no-term"
"""The academic session, of the type schoolYear, of the classes of courses without a term."""

CLASS: Final = re.compile(r"class-([1-9][0-9]{0,17})")
TERM: Final = re.compile(r"term-([1-9][0-9]{0,17})")


def term(id: int) -> str:
    """Return the sourcedId of the academic session of a term."""
    return f"term-{id}"


def grading_period(term_id: int) -> str:
    """Return the sourcedId of the one grading period of a term."""
    return f"gp-{term(term_id)}"


def course(code: str) -> str:
    """Return the sourcedId of the OneRoster course that all sections of a code share; case is ignored."""
    return f"course-{md5(code.lower().encode(), usedforsecurity=False).hexdigest()}"


def class_(course_id: int) -> str:
    """Return the sourcedId of the class of one of our courses."""
    return f"class-{course_id}"


def enrollment(student_id: int, course_id: int) -> str:
    """Return the sourcedId of the enrollment of a student in a class; enrolling again does not change it."""
    return f"enrollment-{student_id}-{course_id}"


def teaching(instructor_id: int, course_id: int) -> str:
    """Return the sourcedId of the enrollment of an instructor, with the role teacher."""
    return f"teaching-{instructor_id}-{course_id}"
