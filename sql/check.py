"""Statements that recount what must always hold: each returns only what is off."""

from dataclasses import dataclass
from typing import Final

from sql import Connection


@dataclass(frozen=True, slots=True)
class Miscount:
    """A course whose counters are not the numbers of the students seated and waiting."""

    course_id: int
    seats_taken: int
    seated: int
    waitlisted: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Oversold:
    """A seat that was not there: the event that gave it, and the seats taken and the capacity right after it."""

    course_id: int
    student_id: int
    position: int
    seats_taken: int
    capacity: int


@dataclass(frozen=True, slots=True)
class Unexplained:
    """A state that differs from what its last event says; None where there is no row, or no event."""

    student_id: int
    course_id: int
    status: str | None
    status_by_event: str | None
    place: int | None
    place_by_event: int | None


@dataclass(frozen=True, slots=True)
class Unversioned:
    """A student or course whose version is not the one that its last event tells."""

    kind: str
    id: int
    version: int | None
    version_by_event: int | None


@dataclass(frozen=True, slots=True)
class Gap:
    """A position that no event has, though a later event exists."""

    after_position: int
    next_position: int


@dataclass(frozen=True, slots=True)
class Clash:
    """Two courses that meet at the same time, with a student seated in both and no override for it.

    ``edited`` where the meetings, or the terms' dates, were edited after the student had both seats.
    """

    student_id: int
    course_id: int
    with_course_id: int
    edited: bool


@dataclass(frozen=True, slots=True)
class Overload:
    """A student with more credits in a term than allowed, and no override for it.

    ``edited`` where the credits, the courses' terms or the limits were edited after the student's last seat there.
    """

    student_id: int
    term_id: int
    held: float
    allowed: float
    edited: bool


FIND_MISCOUNTS: Final = """
SELECT
    courses.id AS course_id,
    courses.seats_taken,
    count(*) FILTER (WHERE student_courses.status IN ('enrolled', 'completed')) AS seated,
    courses.waitlisted,
    count(*) FILTER (WHERE student_courses.status = 'waitlisted') AS waiting
FROM courses
LEFT JOIN student_courses ON student_courses.course_id = courses.id
GROUP BY courses.id
HAVING courses.seats_taken <> count(*) FILTER (WHERE student_courses.status IN ('enrolled', 'completed'))
    OR courses.waitlisted <> count(*) FILTER (WHERE student_courses.status = 'waitlisted')
ORDER BY courses.id
"""


async def find_miscounts(connection: Connection) -> list[Miscount]:
    """Recount the seats and the line of every course."""
    return [Miscount(*row) for row in await connection.fetch(FIND_MISCOUNTS)]


FIND_OVERSOLD: Final = """
WITH moves AS (
    SELECT
        position,
        student_id,
        course_id,
        (student_id IS NOT NULL AND after ->> 'status' IN ('enrolled', 'completed'))::integer
            - (student_id IS NOT NULL AND coalesce(before ->> 'status', '') IN ('enrolled', 'completed'))::integer
            AS seats,
        (after ->> 'override_id')::bigint AS override_id,
        student_id IS NULL AND after -> 'capacity' IS NOT NULL AS sets_capacity,
        (after ->> 'capacity')::bigint AS capacity
    FROM events
    WHERE course_id IS NOT NULL
        AND (starts_with(type, 'enrollment.') OR type IN ('course.created', 'course.updated'))
),
counted AS (
    SELECT
        position,
        student_id,
        course_id,
        seats,
        override_id,
        capacity,
        sum(seats) OVER history AS seats_taken,
        count(*) FILTER (WHERE sets_capacity) OVER history AS era
    FROM moves
    WINDOW history AS (PARTITION BY course_id ORDER BY position)
),
judged AS (
    SELECT
        position,
        student_id,
        course_id,
        seats,
        override_id,
        seats_taken,
        first_value(capacity) OVER (PARTITION BY course_id, era ORDER BY position) AS capacity
    FROM counted
)
SELECT judged.course_id, judged.student_id, judged.position, judged.seats_taken, judged.capacity
FROM judged
LEFT JOIN overrides
    ON overrides.id = judged.override_id
    AND overrides.rule = 'course_full'
WHERE judged.seats = 1
    AND judged.seats_taken > judged.capacity
    AND overrides.id IS NULL
ORDER BY judged.position
"""


async def find_oversold(connection: Connection) -> list[Oversold]:
    """Find who was seated when no seat was free: above the capacity of that moment, and by no override."""
    return [Oversold(*row) for row in await connection.fetch(FIND_OVERSOLD)]


FIND_UNEXPLAINED: Final = """
WITH last AS (
    SELECT DISTINCT ON (student_id, course_id) student_id, course_id, after ->> 'status' AS status
    FROM events
    WHERE student_id IS NOT NULL
        AND course_id IS NOT NULL
        AND starts_with(type, 'enrollment.')
    ORDER BY student_id, course_id, position DESC
),
joined AS (
    SELECT student_id, course_id, max(position) AS place
    FROM events
    WHERE type IN ('enrollment.enrolled', 'enrollment.waitlisted', 'enrollment.promoted')
    GROUP BY student_id, course_id
)
SELECT
    coalesce(student_courses.student_id, last.student_id) AS student_id,
    coalesce(student_courses.course_id, last.course_id) AS course_id,
    student_courses.status,
    last.status AS status_by_event,
    student_courses.place,
    joined.place AS place_by_event
FROM student_courses
FULL JOIN last
    ON last.student_id = student_courses.student_id
    AND last.course_id = student_courses.course_id
LEFT JOIN joined
    ON joined.student_id = student_courses.student_id
    AND joined.course_id = student_courses.course_id
WHERE student_courses.status IS DISTINCT FROM last.status
    OR student_courses.place IS DISTINCT FROM joined.place
ORDER BY 1, 2
"""


async def find_unexplained(connection: Connection) -> list[Unexplained]:
    """Compare every row of ``student_courses`` with the last event of its student and course."""
    return [Unexplained(*row) for row in await connection.fetch(FIND_UNEXPLAINED)]


FIND_UNVERSIONED: Final = """
WITH things AS (
    SELECT 'student' AS kind, id, version
    FROM students
    UNION ALL
    SELECT 'course', id, version
    FROM courses
    UNION ALL
    SELECT 'term', id, version
    FROM terms
),
last AS (
    SELECT DISTINCT ON (kind, id) kind, id, version
    FROM (
        SELECT
            split_part(type, '.', 1) AS kind,
            coalesce(term_id, course_id, student_id) AS id,
            (after ->> 'version')::bigint AS version,
            position
        FROM events
        WHERE split_part(type, '.', 1) IN ('student', 'course', 'term')
    ) AS told
    ORDER BY kind, id, position DESC
)
SELECT
    coalesce(things.kind, last.kind) AS kind,
    coalesce(things.id, last.id) AS id,
    things.version,
    last.version AS version_by_event
FROM things
FULL JOIN last
    ON last.kind = things.kind
    AND last.id = things.id
WHERE things.version IS DISTINCT FROM last.version
ORDER BY 1, 2
"""


async def find_unversioned(connection: Connection) -> list[Unversioned]:
    """Compare the version of every student and course with its last event; a deleted one has no version."""
    return [Unversioned(*row) for row in await connection.fetch(FIND_UNVERSIONED)]


FIND_GAPS: Final = """
SELECT after_position, next_position
FROM (
    SELECT lag(position, 1, 0::bigint) OVER (ORDER BY position) AS after_position, position AS next_position
    FROM events
) AS steps
WHERE next_position <> after_position + 1
ORDER BY next_position
"""


async def find_gaps(connection: Connection) -> list[Gap]:
    """Find what is missing between 1 and the newest position."""
    return [Gap(*row) for row in await connection.fetch(FIND_GAPS)]


FIND_CLASHES: Final = """
WITH meetings AS (
    SELECT
        courses.id AS course_id,
        courses.term_id,
        terms.starts_on,
        terms.ends_on,
        meeting.value ->> 'day' AS day,
        meeting.value ->> 'start' AS begins,
        meeting.value ->> 'end' AS ends
    FROM courses
    LEFT JOIN terms ON terms.id = courses.term_id
    CROSS JOIN json_array_elements(courses.meetings) AS meeting
),
clashing AS (
    SELECT DISTINCT
        one.course_id,
        other.course_id AS with_course_id,
        one.term_id,
        other.term_id AS with_term_id
    FROM meetings AS one
    INNER JOIN meetings AS other
        ON other.day = one.day
        AND other.course_id > one.course_id
        AND one.begins < other.ends
        AND other.begins < one.ends
    WHERE one.term_id IS NULL
        OR other.term_id IS NULL
        OR one.term_id = other.term_id
        OR (one.starts_on < other.ends_on AND other.starts_on < one.ends_on)
),
lifted AS (
    SELECT student_id, course_id
    FROM overrides
    WHERE rule = 'time_conflict'
        AND used_at IS NOT NULL
)
SELECT
    one.student_id,
    clashing.course_id,
    clashing.with_course_id,
    EXISTS (
        SELECT
        FROM events
        WHERE events.position > greatest(one.place, other.place)
            AND (
                (
                    events.type = 'course.updated'
                    AND events.course_id IN (clashing.course_id, clashing.with_course_id)
                    AND (events.after -> 'meetings' IS NOT NULL OR events.after -> 'term_id' IS NOT NULL)
                )
                OR (
                    events.type = 'term.updated'
                    AND events.term_id IN (clashing.term_id, clashing.with_term_id)
                    AND (events.after -> 'starts_on' IS NOT NULL OR events.after -> 'ends_on' IS NOT NULL)
                )
            )
    ) AS edited
FROM clashing
INNER JOIN student_courses AS one
    ON one.course_id = clashing.course_id
    AND one.status IN ('enrolled', 'completed')
INNER JOIN student_courses AS other
    ON other.course_id = clashing.with_course_id
    AND other.student_id = one.student_id
    AND other.status IN ('enrolled', 'completed')
WHERE NOT EXISTS (
    SELECT
    FROM lifted
    WHERE lifted.student_id = one.student_id
        AND lifted.course_id IN (clashing.course_id, clashing.with_course_id)
)
ORDER BY 1, 2, 3
"""


async def find_clashes(connection: Connection) -> list[Clash]:
    """Find students seated in courses that meet at the same time, where no override allowed it."""
    return [Clash(*row) for row in await connection.fetch(FIND_CLASHES)]


FIND_OVERLOADS: Final = """
WITH held AS (
    SELECT
        student_courses.student_id,
        courses.term_id,
        sum(courses.credits) AS credits,
        max(student_courses.place) AS place,
        array_agg(courses.id) AS course_ids
    FROM student_courses
    INNER JOIN courses ON courses.id = student_courses.course_id
    WHERE student_courses.status IN ('enrolled', 'completed')
        AND courses.term_id IS NOT NULL
    GROUP BY student_courses.student_id, courses.term_id
)
SELECT
    held.student_id,
    held.term_id,
    held.credits AS held,
    coalesce(students.max_credits, terms.max_credits) AS allowed,
    EXISTS (
        SELECT
        FROM events
        WHERE events.position > held.place
            AND (
                (
                    events.type = 'course.updated'
                    AND events.course_id = ANY(held.course_ids)
                    AND (events.after -> 'credits' IS NOT NULL OR events.after -> 'term_id' IS NOT NULL)
                )
                OR (
                    events.type = 'term.updated'
                    AND events.term_id = held.term_id
                    AND events.after -> 'max_credits' IS NOT NULL
                )
                OR (
                    events.type = 'student.updated'
                    AND events.student_id = held.student_id
                    AND (events.after -> 'fields')::jsonb ? 'max_credits'
                )
            )
    ) AS edited
FROM held
INNER JOIN students ON students.id = held.student_id
INNER JOIN terms ON terms.id = held.term_id
WHERE held.credits > coalesce(students.max_credits, terms.max_credits)
    AND NOT EXISTS (
        SELECT
        FROM overrides
        WHERE overrides.student_id = held.student_id
            AND overrides.course_id = ANY(held.course_ids)
            AND overrides.rule = 'credit_limit'
            AND overrides.used_at IS NOT NULL
    )
ORDER BY 1, 2
"""


async def find_overloads(connection: Connection) -> list[Overload]:
    """Find students with more credits in a term than allowed, where no override allowed it."""
    return [Overload(*row) for row in await connection.fetch(FIND_OVERLOADS)]
