"""Statements that verify the invariants."""

from dataclasses import dataclass
from typing import Final, NamedTuple

from sql import Connection


class Count(NamedTuple):
    """The counters of a course and the recounted students.

    ``seats_taken`` must equal ``seated``, and ``waitlisted`` must equal ``waiting``.
    """

    course_id: int
    seats_taken: int
    seated: int
    waitlisted: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Missing positions: no event lies between ``after_position`` and ``next_position``."""

    after_position: int
    next_position: int


@dataclass(frozen=True, slots=True)
class LaggingSequence:
    """A sequence whose next id is at most the largest id in its table."""

    sequence: str
    next_id: int
    largest_id: int


@dataclass(frozen=True, slots=True)
class SharedEmail:
    """Students whose e-mail addresses are equal or differ only in case."""

    student_ids: list[int]


@dataclass(frozen=True, slots=True)
class SharedSourcedId:
    """People with the same sourced id; a list is None if none of them is a student, or none an instructor."""

    student_ids: list[int] | None
    instructor_ids: list[int] | None


@dataclass(frozen=True, slots=True)
class StrayTombstone:
    """A tombstone of a student, an instructor, a course or a term that still exists."""

    resource: str
    id: int


@dataclass(frozen=True, slots=True)
class WrongPrimary:
    """A course whose instructors do not have exactly one primary among them."""

    course_id: int
    instructors: int
    primary: int


@dataclass(frozen=True, slots=True)
class StrayRefusal:
    """A refusal of a student who does not exist."""

    refusal_id: int
    student_id: int


@dataclass(frozen=True, slots=True)
class MisplacedPart:
    """A part of a term that begins before the term, ends after it, or is a part of a part."""

    term_id: int
    parent_id: int


class Seated(NamedTuple):
    """A seat of a student; ``joined_position`` is the position of the event that gave the seat."""

    student_id: int
    course_id: int
    joined_position: int


class Held(NamedTuple):
    """A seat or a waitlist place of a student; ``swap_drops`` is a JSON array of the courses that a swap drops."""

    student_id: int
    course_id: int
    status: str
    joined_position: int
    swap_drops: str | None


class CreditLimit(NamedTuple):
    """A student's own credit limit for one term."""

    student_id: int
    max_credits: float


FIND_COUNTS: Final = """
SELECT courses.id AS course_id, courses.seats_taken, counted.seated, courses.waitlisted, counted.waiting
FROM courses
CROSS JOIN LATERAL (
    SELECT
        count(*) FILTER (WHERE student_courses.status IN ('enrolled', 'completed')) AS seated,
        count(*) FILTER (WHERE student_courses.status = 'waitlisted') AS waiting
    FROM student_courses
    WHERE student_courses.course_id = courses.id
) AS counted
WHERE courses.id > $1::bigint
ORDER BY courses.id
LIMIT $2::bigint
"""


async def find_counts(connection: Connection, after_id: int, limit: int) -> list[Count]:
    """Recount the seats and the waitlists of a page of courses, ordered by id."""
    return [Count._make(row) for row in await connection.fetch(FIND_COUNTS, after_id, limit)]


class ReservedCount(NamedTuple):
    """The reserved seats of a course by group, as JSON objects: the counters and the recounted students."""

    course_id: int
    reserved_taken: str | None
    recounted: str | None


FIND_RESERVED_COUNTS: Final = """
SELECT courses.id AS course_id, courses.reserved_taken, counted.recounted
FROM courses
CROSS JOIN LATERAL (
    SELECT json_object_agg(groups.reserved_group, groups.students) AS recounted
    FROM (
        SELECT reserved_group, count(*) AS students
        FROM student_courses
        WHERE student_courses.course_id = courses.id
            AND reserved_group IS NOT NULL
        GROUP BY reserved_group
    ) AS groups
) AS counted
WHERE courses.id > $1::bigint
    AND (courses.reservations IS NOT NULL OR courses.reserved_taken IS NOT NULL)
ORDER BY courses.id
LIMIT $2::bigint
"""


async def find_reserved_counts(connection: Connection, after_id: int, limit: int) -> list[ReservedCount]:
    """Recount the reserved seats of a page of the courses that have or had reservations, ordered by id."""
    return [ReservedCount._make(row) for row in await connection.fetch(FIND_RESERVED_COUNTS, after_id, limit)]


FIND_STRAY_GROUPS: Final = """
SELECT student_courses.course_id, student_courses.student_id
FROM student_courses
INNER JOIN courses ON courses.id = student_courses.course_id
WHERE student_courses.reserved_group IS NOT NULL
    AND (student_courses.status NOT IN ('enrolled', 'completed') OR courses.reservations IS NULL)
ORDER BY student_courses.course_id, student_courses.student_id
LIMIT $1::bigint
"""


class StrayGroup(NamedTuple):
    """A student with a reserved seat who has no seat, or whose course never had reservations."""

    course_id: int
    student_id: int


async def find_stray_groups(connection: Connection, limit: int) -> list[StrayGroup]:
    """Return students with a reserved seat who have no seat, or whose course never had reservations."""
    return [StrayGroup._make(row) for row in await connection.fetch(FIND_STRAY_GROUPS, limit)]


FIND_GAPS: Final = """
SELECT after_position, next_position
FROM (
    SELECT lag(position, 1, 0::bigint) OVER (ORDER BY position) AS after_position, position AS next_position
    FROM events
) AS steps
WHERE next_position <> after_position + 1
ORDER BY next_position
LIMIT $1::bigint
"""


async def find_gaps(connection: Connection, limit: int) -> list[Gap]:
    """Return the gaps between position 1 and the newest position, ordered by position."""
    return [Gap(*row) for row in await connection.fetch(FIND_GAPS, limit)]


FIND_LAGGING_SEQUENCES: Final = """
SELECT sequence, next_id, largest_id
FROM (
    SELECT 'students_id_seq' AS sequence, last_value + is_called::integer AS next_id, largest.id AS largest_id
    FROM students_id_seq
    CROSS JOIN (
        SELECT max(id) AS id
        FROM students
        WHERE id >> 48 = (SELECT last_value >> 48 FROM students_id_seq)
    ) AS largest
    UNION ALL
    SELECT 'courses_id_seq', last_value + is_called::integer, largest.id
    FROM courses_id_seq
    CROSS JOIN (
        SELECT max(id) AS id
        FROM courses
        WHERE id >> 48 = (SELECT last_value >> 48 FROM courses_id_seq)
    ) AS largest
    UNION ALL
    SELECT 'terms_id_seq', last_value + is_called::integer, largest.id
    FROM terms_id_seq
    CROSS JOIN (
        SELECT max(id) AS id
        FROM terms
        WHERE id >> 48 = (SELECT last_value >> 48 FROM terms_id_seq)
    ) AS largest
    UNION ALL
    SELECT 'equivalences_id_seq', last_value + is_called::integer, largest.id
    FROM equivalences_id_seq
    CROSS JOIN (
        SELECT max(id) AS id
        FROM equivalences
        WHERE id >> 48 = (SELECT last_value >> 48 FROM equivalences_id_seq)
    ) AS largest
    UNION ALL
    SELECT 'holds_id_seq', last_value + is_called::integer, largest.id
    FROM holds_id_seq
    CROSS JOIN (
        SELECT max(id) AS id
        FROM holds
        WHERE id >> 48 = (SELECT last_value >> 48 FROM holds_id_seq)
    ) AS largest
    UNION ALL
    SELECT 'instructors_id_seq', last_value + is_called::integer, largest.id
    FROM instructors_id_seq
    CROSS JOIN (
        SELECT max(id) AS id
        FROM instructors
        WHERE id >> 48 = (SELECT last_value >> 48 FROM instructors_id_seq)
    ) AS largest
    UNION ALL
    SELECT 'overrides_id_seq', last_value + is_called::integer, largest.id
    FROM overrides_id_seq
    CROSS JOIN (
        SELECT max(id) AS id
        FROM overrides
        WHERE id >> 48 = (SELECT last_value >> 48 FROM overrides_id_seq)
    ) AS largest
) AS sequences
WHERE next_id <= largest_id
"""


async def find_lagging_sequences(connection: Connection) -> list[LaggingSequence]:
    """Return the sequences that could assign an existing id again.

    On Citus, each node assigns ids of its own: their upper 16 bits differ (Citus manual, "Distributed sequences").
    """
    return [LaggingSequence(*row) for row in await connection.fetch(FIND_LAGGING_SEQUENCES)]


FIND_STRAY_TOMBSTONES: Final = """
SELECT resource, id
FROM tombstones
WHERE CASE resource
    WHEN 'student' THEN EXISTS (SELECT FROM students WHERE students.id = tombstones.id)
    WHEN 'instructor' THEN EXISTS (SELECT FROM instructors WHERE instructors.id = tombstones.id)
    WHEN 'course' THEN EXISTS (SELECT FROM courses WHERE courses.id = tombstones.id)
    ELSE EXISTS (SELECT FROM terms WHERE terms.id = tombstones.id)
END
ORDER BY resource, id
LIMIT $1::bigint
"""


async def find_stray_tombstones(connection: Connection, limit: int) -> list[StrayTombstone]:
    """Return tombstones of what still exists, ordered by resource and id."""
    return [StrayTombstone(*row) for row in await connection.fetch(FIND_STRAY_TOMBSTONES, limit)]


FIND_STRAY_REFUSALS: Final = """
SELECT refusals.id AS refusal_id, refusals.student_id
FROM refusals
WHERE NOT EXISTS (SELECT FROM students WHERE students.id = refusals.student_id)
ORDER BY refusals.id
LIMIT $1::bigint
"""


async def find_stray_refusals(connection: Connection, limit: int) -> list[StrayRefusal]:
    """Return refusals of students who do not exist, ordered by id."""
    return [StrayRefusal(*row) for row in await connection.fetch(FIND_STRAY_REFUSALS, limit)]


FIND_SHARED_EMAILS: Final = """
SELECT array_agg(id ORDER BY id) AS student_ids
FROM students
WHERE email IS NOT NULL
GROUP BY lower(email COLLATE "C")
HAVING count(*) > 1
ORDER BY min(id)
LIMIT $1::bigint
"""


async def find_shared_emails(connection: Connection, limit: int) -> list[SharedEmail]:
    """Return students who share an e-mail address, which only a broken or missing index allows."""
    return [SharedEmail(*row) for row in await connection.fetch(FIND_SHARED_EMAILS, limit)]


FIND_SHARED_SOURCED_IDS: Final = """
SELECT
    array_agg(id ORDER BY id) FILTER (WHERE is_student) AS student_ids,
    array_agg(id ORDER BY id) FILTER (WHERE NOT is_student) AS instructor_ids
FROM (
    SELECT id, sourced_id, true AS is_student
    FROM students
    UNION ALL
    SELECT id, sourced_id, false AS is_student
    FROM instructors
) AS people
GROUP BY sourced_id
HAVING count(*) > 1
ORDER BY min(id)
LIMIT $1::bigint
"""


async def find_shared_sourced_ids(connection: Connection, limit: int) -> list[SharedSourcedId]:
    """Return the students and instructors who share a sourced id."""
    return [SharedSourcedId(*row) for row in await connection.fetch(FIND_SHARED_SOURCED_IDS, limit)]


FIND_WRONG_PRIMARIES: Final = """
SELECT course_id, count(*) AS instructors, count(*) FILTER (WHERE is_primary) AS primary
FROM course_instructors
WHERE teaches
GROUP BY course_id
HAVING count(*) FILTER (WHERE is_primary) <> 1
ORDER BY course_id
LIMIT $1::bigint
"""


async def find_wrong_primaries(connection: Connection, limit: int) -> list[WrongPrimary]:
    """Return the courses whose instructors do not have exactly one primary among them, ordered by id."""
    return [WrongPrimary(*row) for row in await connection.fetch(FIND_WRONG_PRIMARIES, limit)]


FIND_SEATED: Final = """
SELECT student_id, course_id, joined_position
FROM student_courses
WHERE (student_id, course_id) > ($1::bigint, $2::bigint)
    AND status IN ('enrolled', 'completed')
ORDER BY student_id, course_id
LIMIT $3::bigint
"""


async def find_seated(connection: Connection, after_student_id: int, after_course_id: int, limit: int) -> list[Seated]:
    """Load a page of seats, ordered by student and course."""
    rows = await connection.fetch(FIND_SEATED, after_student_id, after_course_id, limit)
    return [Seated._make(row) for row in rows]


FIND_HELD: Final = """
SELECT student_id, course_id, status, joined_position, swap_drops
FROM student_courses
WHERE (student_id, course_id) > ($1::bigint, $2::bigint)
    AND status IN ('enrolled', 'completed', 'waitlisted')
ORDER BY student_id, course_id
LIMIT $3::bigint
"""


async def find_held(connection: Connection, after_student_id: int, after_course_id: int, limit: int) -> list[Held]:
    """Load a page of seats and waitlist places, ordered by student and course."""
    rows = await connection.fetch(FIND_HELD, after_student_id, after_course_id, limit)
    return [Held._make(row) for row in rows]


FIND_CREDIT_LIMITS: Final = """
SELECT id AS student_id, max_credits
FROM students
WHERE id > $1::bigint
    AND max_credits IS NOT NULL
ORDER BY id
LIMIT $2::bigint
"""


async def find_credit_limits(connection: Connection, after_student_id: int, limit: int) -> list[CreditLimit]:
    """Load a page of the students who have their own credit limit, ordered by id."""
    return [CreditLimit._make(row) for row in await connection.fetch(FIND_CREDIT_LIMITS, after_student_id, limit)]


FIND_LIFTED: Final = """
SELECT course_id
FROM overrides
WHERE student_id = $1::bigint
    AND rule = $2::text
    AND used_at IS NOT NULL
"""


async def find_lifted(connection: Connection, student_id: int, rule: str) -> list[int]:
    """Return the ids of the courses for which a student has used an override of a rule."""
    return [row[0] for row in await connection.fetch(FIND_LIFTED, student_id, rule)]


FIND_GRANTED: Final = """
SELECT course_id
FROM overrides
WHERE student_id = $1::bigint
    AND rule = $2::text
"""


async def find_granted(connection: Connection, student_id: int, rule: str) -> list[int]:
    """Return the ids of the courses for which a student was granted an override of a rule, used or not."""
    return [row[0] for row in await connection.fetch(FIND_GRANTED, student_id, rule)]


FIND_EDIT_OF_CODES: Final = """
SELECT EXISTS (
    SELECT
    FROM events
    WHERE student_id IS NULL
        AND course_id = ANY($1::bigint[])
        AND position > $4::bigint
        AND (after -> 'code' IS NOT NULL OR after -> 'term_id' IS NOT NULL)
)
OR EXISTS (
    SELECT
    FROM events
    WHERE student_id IS NULL
        AND course_id IS NULL
        AND position > $4::bigint
        AND (
            type = 'equivalence.created'
            OR (term_id = ANY($2::bigint[]) AND (after -> 'starts_on' IS NOT NULL OR after -> 'ends_on' IS NOT NULL))
        )
)
OR EXISTS (
    SELECT
    FROM events
    WHERE student_id = $3::bigint
        AND position > $4::bigint
        AND (
            type = 'student.merged'
            OR (type = 'enrollment.completion_removed' AND course_id = ANY($1::bigint[]))
        )
)
"""


async def find_edit_of_codes(
    connection: Connection, course_ids: list[int], term_ids: list[int], student_id: int, after_position: int
) -> bool:
    """Return whether the code or term of a course, the dates of a term, or any equivalent codes were edited since.

    A completion of the student that was taken back, and a merge of the student's records, count as such edits: the seat
    may be in the term of another one.
    """
    edited: bool = await connection.fetchval(FIND_EDIT_OF_CODES, course_ids, term_ids, student_id, after_position)
    return edited


FIND_EDIT_OF_TIMES: Final = """
SELECT EXISTS (
    SELECT
    FROM events
    WHERE student_id IS NULL
        AND course_id = ANY($1::bigint[])
        AND position > $4::bigint
        AND (after -> 'meetings' IS NOT NULL OR after -> 'term_id' IS NOT NULL)
)
OR EXISTS (
    SELECT
    FROM events
    WHERE student_id IS NULL
        AND course_id IS NULL
        AND term_id = ANY($2::bigint[])
        AND position > $4::bigint
        AND (after -> 'starts_on' IS NOT NULL OR after -> 'ends_on' IS NOT NULL)
)
OR EXISTS (
    SELECT
    FROM events
    WHERE student_id = $3::bigint
        AND course_id IS NULL
        AND position > $4::bigint
        AND type = 'student.merged'
)
"""


async def find_edit_of_times(
    connection: Connection, course_ids: list[int], term_ids: list[int], student_id: int, after_position: int
) -> bool:
    """Return whether the meetings or term of a course, or the dates of a term, were edited after a position.

    A merge of the student's records counts as such an edit.
    """
    edited: bool = await connection.fetchval(FIND_EDIT_OF_TIMES, course_ids, term_ids, student_id, after_position)
    return edited


FIND_EDIT_OF_CREDITS: Final = """
SELECT EXISTS (
    SELECT
    FROM events
    WHERE student_id IS NULL
        AND course_id = ANY($1::bigint[])
        AND position > $4::bigint
        AND (after -> 'credits' IS NOT NULL OR after -> 'term_id' IS NOT NULL)
)
OR EXISTS (
    SELECT
    FROM events
    WHERE student_id IS NULL
        AND course_id IS NULL
        AND term_id = ANY($2::bigint[])
        AND position > $4::bigint
        AND (after -> 'max_credits' IS NOT NULL OR after -> 'parent_id' IS NOT NULL)
)
OR EXISTS (
    SELECT
    FROM events
    WHERE student_id = $3::bigint
        AND course_id IS NULL
        AND position > $4::bigint
        AND (type = 'student.merged' OR (type = 'student.updated' AND (after -> 'fields')::jsonb ? 'max_credits'))
)
"""


async def find_edit_of_credits(
    connection: Connection, course_ids: list[int], term_ids: list[int], student_id: int, after_position: int
) -> bool:
    """Return whether an edit after a position affects the credits of a student in a term or its parts.

    Such an edit changes the credits or the term of a course, the credit limit of a term or the student, makes a term a
    part of another one, or merges the student's records.
    """
    edited: bool = await connection.fetchval(FIND_EDIT_OF_CREDITS, course_ids, term_ids, student_id, after_position)
    return edited


FIND_MISPLACED_PARTS: Final = """
SELECT parts.id AS term_id, parts.parent_id
FROM terms AS parts
INNER JOIN terms AS parents ON parents.id = parts.parent_id
WHERE parents.parent_id IS NOT NULL
    OR parts.starts_on < parents.starts_on
    OR parts.ends_on > parents.ends_on
ORDER BY parts.id
LIMIT $1::bigint
"""


async def find_misplaced_parts(connection: Connection, limit: int) -> list[MisplacedPart]:
    """Return the parts that do not lie within a whole term."""
    return [MisplacedPart(*row) for row in await connection.fetch(FIND_MISPLACED_PARTS, limit)]
