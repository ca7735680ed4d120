"""The database under test: templates with consistent data, filled set-based, and a clone for each measurement.

A template satisfies every invariant that ``python -m service check`` verifies: counters match the rows, each state
matches its last event, and positions are contiguous.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import psycopg

from service.migrate import migrate

ROOT: Final = Path(__file__).parents[2]
ENROLLMENTS_PER_STUDENT: Final = 20
"""Existing enrollments of each student."""
RUSH_SEATS: Final = 500
"""Seats of the course that the rush requests; its waitlist is unlimited."""
OPTIONS: Final = {
    # All other settings are the defaults of PostgreSQL: every commit is on disk before it is confirmed.
    "shared_buffers": "1GB",
    "max_connections": "200",
    # Large enough that no checkpoint runs during a measurement; one runs right before.
    "max_wal_size": "8GB",
}


@dataclass(frozen=True, slots=True)
class Campus:
    """The contents of a template.

    The ``students`` have 20 existing enrollments each, spread evenly over ``courses``; ``newcomers`` have none. One
    additional course, with the next id, is the target of the rush. If rules are ``configured``, every course is in a
    term with deadlines in force and a credit limit, meets twice a week, and some courses have requirements that every
    student meets.
    """

    name: str
    students: int
    courses: int
    newcomers: int = 0
    configured: bool = False

    @property
    def enrollments(self) -> int:
        """Return the number of existing enrollments."""
        return self.students * ENROLLMENTS_PER_STUDENT

    @property
    def wanted(self) -> int:
        """Return the id of the course that the rush requests."""
        return self.courses + 1

    @property
    def numbers(self) -> dict[str, int]:
        """Return the parameters of the statements below and of the load scripts."""
        return {
            "students": self.students,
            "courses": self.courses,
            "each": ENROLLMENTS_PER_STUDENT,
            "wanted": self.wanted,
        }


IDLE: Final = Campus("idle_1e5", students=5_000, courses=1_000)
CONFIGURED: Final = Campus("configured_1e5", students=5_000, courses=1_000, configured=True)
RUSH: Final = Campus("rush", students=5_000, courses=1_000, newcomers=200_000)
GROWN: Final = {
    100_000: IDLE,
    1_000_000: Campus("idle_1e6", students=50_000, courses=10_000),
    10_000_000: Campus("idle_1e7", students=500_000, courses=100_000),
}

FILL_TERMS: Final = """
INSERT INTO terms (
    id, code, name, starts_on, ends_on, enroll_from, enroll_until, drop_until, withdraw_until, max_credits
)
SELECT
    number,
    'T' || number,
    'Term ' || number,
    date '2030-01-01' + number * 100,
    date '2030-01-01' + number * 100 + 90,
    now() - interval '1 day',
    now() + interval '1 year',
    now() + interval '1 year',
    now() + interval '2 years',
    900
FROM generate_series(1, 8) AS number
UNION ALL
SELECT 9, 'PAST', 'The past term', date '2020-01-01', date '2020-06-30', NULL, NULL, NULL, NULL, NULL
"""

FILL_COURSES: Final = """
INSERT INTO courses (id, code, title, credits, capacity, waitlist_capacity)
SELECT
    number,
    'C' || lpad(number::text, 6, '0'),
    'Introduction to Subject ' || number,
    3,
    CASE WHEN number <= %(courses)s THEN 1000000 ELSE %(seats)s END,
    CASE WHEN number <= %(courses)s THEN 10 END
FROM generate_series(1, %(wanted)s) AS number
"""

CONFIGURE_COURSES: Final = """
WITH slots AS (
    SELECT id, (id %% 8) + 1 AS term_id, (id / 8) %% 26 AS time, (id / 8 / 26) %% 3 AS pattern
    FROM courses
    WHERE id <= %(courses)s
)
UPDATE courses
SET
    term_id = slots.term_id,
    meetings = (
        SELECT json_agg(
            json_build_object('day', day, 'start', to_char(begins, 'HH24:MI'), 'end', to_char(ends, 'HH24:MI'))
        )
        FROM unnest((ARRAY['{mon,wed}', '{tue,thu}', '{fri,sat}'])[slots.pattern + 1]::text[]) AS day
        CROSS JOIN LATERAL (
            SELECT
                time '08:00' + slots.time * interval '30 minutes' AS begins,
                time '08:00' + slots.time * interval '30 minutes' + interval '30 minutes' AS ends
        ) AS hours
    )
FROM slots
WHERE courses.id = slots.id
"""

FILL_PAST_COURSES: Final = """
INSERT INTO courses (id, term_id, code, title, credits)
SELECT %(wanted)s + number, 9, 'BASIC' || number, 'Basics ' || number, 3
FROM generate_series(1, 2) AS number
"""

FILL_REQUIREMENTS: Final = """
INSERT INTO requirements (course_id, kind, group_number, code)
SELECT courses.id, needed.kind, 1, needed.code
FROM courses
INNER JOIN (
    VALUES (1, 'pre', 'BASIC1'), (1, 'pre', 'BASIC9'), (2, 'co', 'BASIC2'), (3, 'anti', 'NOWHERE')
) AS needed (remainder, kind, code)
    ON courses.id %% 10 = needed.remainder
WHERE courses.id <= %(courses)s
"""

FILL_STUDENTS: Final = """
INSERT INTO students (id, given_name, family_name, email)
SELECT number, 'Given' || number, 'Family' || number, 'student' || number || '@campus.example'
FROM generate_series(1, %(students)s + %(newcomers)s) AS number
"""

FILL_HOLDS: Final = """
INSERT INTO holds (student_id, reason, blocks_enroll, blocks_drop, ends_at, created_at)
SELECT id, 'Library fees', true, false, now() - interval '1 day', now() - interval '10 days'
FROM students
WHERE id %% 50 = 0
"""

FILL_EVENTS_OF_RESOURCES: Final = """
INSERT INTO events (
    position, type, occurred_at, actor, request_id, student_id, course_id, term_id, before, after
)
SELECT
    row_number() OVER (ORDER BY step, term_id, course_id, student_id),
    type,
    now(),
    'benchmark',
    'benchmark',
    student_id,
    course_id,
    term_id,
    CASE WHEN type = 'course.requirements_set' THEN '{"groups":[],"version":1}'::json END,
    after
FROM (
    SELECT
        1 AS step,
        'term.created' AS type,
        NULL::bigint AS student_id,
        NULL::bigint AS course_id,
        id AS term_id,
        json_build_object(
            'code', code, 'name', name, 'starts_on', starts_on, 'ends_on', ends_on, 'enroll_from', enroll_from,
            'enroll_until', enroll_until, 'drop_until', drop_until, 'withdraw_until', withdraw_until,
            'max_credits', max_credits, 'version', version
        ) AS after
    FROM terms
    UNION ALL
    SELECT
        2,
        'course.created',
        NULL,
        id,
        NULL,
        json_build_object(
            'external_id', external_id, 'term_id', term_id, 'code', code, 'title', title, 'credits', credits,
            'capacity', capacity, 'waitlist_capacity', waitlist_capacity, 'meetings', meetings, 'version', version
        )
    FROM courses
    UNION ALL
    SELECT
        3,
        'course.requirements_set',
        NULL,
        course_id,
        NULL,
        json_build_object(
            'groups', json_build_array(json_build_object('kind', min(kind), 'any_of', json_agg(code ORDER BY code))),
            'version', 1
        )
    FROM requirements
    GROUP BY course_id
    UNION ALL
    SELECT
        4,
        'student.created',
        id,
        NULL,
        NULL,
        '{"fields":["external_id","given_name","family_name","email","max_credits"],"version":1}'
    FROM students
    UNION ALL
    SELECT
        5,
        'hold.placed',
        student_id,
        NULL,
        NULL,
        json_build_object('hold_id', id, 'blocks', json_build_array('enroll'), 'from', starts_at, 'until', ends_at)
    FROM holds
) AS created
"""

# The rows of a student are inserted in rounds, as in production, so that they do not lie on the same page.
FILL_ENROLLMENTS: Final = """
WITH base AS (
    SELECT max(position) AS position
    FROM events
),
existing AS (
    SELECT
        base.position + round * %(students)s + student_id AS joined_position,
        student_id,
        (student_id + round * (%(courses)s / %(each)s)) %% %(courses)s + 1 AS course_id
    FROM base
    CROSS JOIN generate_series(0, %(each)s - 1) AS round
    CROSS JOIN generate_series(1, %(students)s) AS student_id
    ORDER BY joined_position
),
appended AS (
    INSERT INTO events (position, type, occurred_at, actor, request_id, student_id, course_id, after)
    SELECT
        joined_position, 'enrollment.enrolled', now(), 'benchmark', 'benchmark', student_id, course_id, '{"status":"enrolled"}'
    FROM existing
)
INSERT INTO student_courses (student_id, course_id, status, joined_position, joined_at, updated_at)
SELECT student_id, course_id, 'enrolled', joined_position, now(), now()
FROM existing
"""

FILL_COMPLETED: Final = """
WITH base AS (
    SELECT max(position) AS position
    FROM events
),
passed AS (
    SELECT
        base.position + (student_id - 1) * 4 + number * 2 - 1 AS joined_position,
        student_id,
        %(wanted)s + number AS course_id
    FROM base
    CROSS JOIN generate_series(1, %(students)s) AS student_id
    CROSS JOIN generate_series(1, 2) AS number
),
appended AS (
    INSERT INTO events (position, type, occurred_at, actor, request_id, student_id, course_id, before, after)
    SELECT
        joined_position + step,
        CASE step WHEN 0 THEN 'enrollment.enrolled' ELSE 'enrollment.completed' END,
        now(),
        'benchmark',
        'benchmark',
        student_id,
        course_id,
        (CASE step WHEN 1 THEN '{"status":"enrolled"}' END)::json,
        (CASE step WHEN 0 THEN '{"status":"enrolled"}' ELSE '{"status":"completed","passed":true,"grade":null}' END)::json
    FROM passed
    CROSS JOIN generate_series(0, 1) AS step
)
INSERT INTO student_courses (student_id, course_id, status, joined_position, joined_at, updated_at, passed)
SELECT student_id, course_id, 'completed', joined_position, now(), now(), true
FROM passed
"""

COUNT_SEATS: Final = """
UPDATE courses
SET seats_taken = counted.seated
FROM (
    SELECT course_id, count(*) AS seated
    FROM student_courses
    GROUP BY course_id
) AS counted
WHERE counted.course_id = courses.id
"""

SET_IDS: Final = """
SELECT
    setval(pg_get_serial_sequence('students', 'id'), (SELECT max(id) FROM students)),
    setval(pg_get_serial_sequence('courses', 'id'), (SELECT max(id) FROM courses)),
    setval(pg_get_serial_sequence('terms', 'id'), (SELECT coalesce(max(id), 0) + 1 FROM terms))
"""

# After a rush, every enrolled student must have joined before every waitlisted one, in the order of the positions.
SUM_UP_RUSH: Final = """
WITH members AS (
    SELECT
        status,
        joined_position,
        joined_position = (
            SELECT max(position)
            FROM events
            WHERE events.student_id = student_courses.student_id
                AND events.course_id = student_courses.course_id
        ) AS placed_by_event,
        lag(joined_at) OVER (ORDER BY joined_position) > joined_at AS joined_earlier
    FROM student_courses
    WHERE course_id = %(wanted)s
)
SELECT
    count(*) FILTER (WHERE status = 'enrolled') AS enrolled,
    count(*) FILTER (WHERE status = 'waitlisted') AS waitlisted,
    (SELECT seats_taken FROM courses WHERE id = %(wanted)s) AS seats_taken,
    (SELECT waitlisted FROM courses WHERE id = %(wanted)s) AS waiting,
    coalesce(bool_and(placed_by_event), true)
        AND NOT coalesce(bool_or(joined_earlier), false)
        AND count(*) = count(DISTINCT joined_position)
        AND coalesce(
            max(joined_position) FILTER (WHERE status = 'enrolled') < min(joined_position) FILTER (WHERE status = 'waitlisted'), true
        ) AS in_order
FROM members
"""


# Without this, the first requests would read the copy from disk, as happens only after a restart.
PREWARM: Final = """
SELECT pg_prewarm(oid)
FROM pg_class
WHERE relnamespace = 'public'::regnamespace
    AND relkind IN ('r', 'i')
"""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The PostgreSQL under test: the URL of its first database, and the id of its first process."""

    url: str
    pid: int

    def url_of(self, database: str) -> str:
        """Return the URL of a database of the cluster."""
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{database}"))

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """Connect as the superuser in autocommit mode."""
        return psycopg.connect(self.url_of(database), autocommit=True)

    def ensure_template(self, campus: Campus) -> None:
        """Create the template of a campus if it does not exist."""
        name = f"template_{campus.name}"
        with self.connect() as admin:
            if admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
                return
            admin.execute("DROP DATABASE IF EXISTS filling WITH (FORCE)")
            admin.execute("CREATE DATABASE filling TEMPLATE template0 ENCODING 'UTF8'")
            migrate(self.url_of("filling"), timeout=10.0)
            with self.connect("filling") as connection:
                connection.execute("CREATE EXTENSION pg_prewarm")
            fill(self, "filling", campus)
            if (fault := check(self.url_of("filling"))) is not None:
                raise AssertionError(f"the template {name} is inconsistent:\n{fault}")
            # Nothing may connect to a template, including autovacuum.
            admin.execute("ALTER DATABASE filling WITH ALLOW_CONNECTIONS false")
            admin.execute(f"ALTER DATABASE filling RENAME TO {name}")

    @contextmanager
    def clone(self, campus: Campus, name: str) -> Iterator[str]:
        """Yield the URL of a new copy of a campus, written to disk and, as far as it fits, loaded into memory."""
        with self.connect() as admin:
            admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            admin.execute(f"CREATE DATABASE {name} TEMPLATE template_{campus.name} STRATEGY FILE_COPY")
            admin.execute("CHECKPOINT")
            with self.connect(name) as connection:
                connection.execute(PREWARM)
            try:
                yield self.url_of(name)
            finally:
                admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def cluster_at(url: str) -> Cluster:
    """Return the cluster that a URL names, with its first process."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SHOW data_directory").fetchone()
    assert row is not None
    return Cluster(url, int((Path(row[0]) / "postmaster.pid").read_text().split()[0]))


def fill(cluster: Cluster, database: str, campus: Campus) -> None:
    """Fill an empty, migrated database."""
    numbers = {**campus.numbers, "newcomers": campus.newcomers, "seats": RUSH_SEATS}
    with cluster.connect(database) as connection:
        with connection.transaction():
            # The data satisfy the foreign keys by construction; checking them row by row takes most of the time.
            connection.execute("SET LOCAL session_replication_role = replica")
            if campus.configured:
                connection.execute(FILL_TERMS)
            connection.execute(FILL_COURSES, numbers)
            if campus.configured:
                connection.execute(CONFIGURE_COURSES, numbers)
                connection.execute(FILL_PAST_COURSES, numbers)
                connection.execute(FILL_REQUIREMENTS, numbers)
            connection.execute(FILL_STUDENTS, numbers)
            if campus.configured:
                connection.execute(FILL_HOLDS, numbers)
            connection.execute(FILL_EVENTS_OF_RESOURCES)
            connection.execute(FILL_ENROLLMENTS, numbers)
            if campus.configured:
                connection.execute(FILL_COMPLETED, numbers)
            connection.execute(COUNT_SEATS)
            connection.execute(SET_IDS)
        connection.execute("VACUUM (ANALYZE)")


def check(url: str) -> str | None:
    """Verify every invariant; return the output of the check if it finds a fault, otherwise None."""
    done = subprocess.run(
        [sys.executable, "-m", "service", "check"],
        cwd=ROOT,
        env={"DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    return None if done.returncode == 0 else done.stdout + done.stderr


def count_events(cluster: Cluster, database: str) -> int:
    """Return the number of events; the positions of the peers need not be contiguous."""
    with cluster.connect(database) as connection:
        row = connection.execute("SELECT count(*) FROM events").fetchone()
    assert row is not None
    return int(row[0])


def sum_up_rush(cluster: Cluster, database: str, campus: Campus) -> dict[str, int | bool]:
    """Return the numbers of students and seats after a rush, and whether the order of arrival was kept."""
    with cluster.connect(database) as connection:
        row = connection.execute(SUM_UP_RUSH, campus.numbers).fetchone()
    assert row is not None
    return dict(zip(("enrolled", "waitlisted", "seats_taken", "waiting", "in_order"), row, strict=True))
