"""Statements about what OneRoster shows: users, classes, courses, enrollments and academic sessions.

Each statement lists a page in one unique order. A parameter that is None costs nothing, because these statements are
planned for each call (``use_custom_plans``). All of them take:

* ``deleted``: whether the rows are deleted, or None for all rows.
* ``modified_from``, ``modified_until``: the period of the last change, which includes its first instant only.
* ``condition``: a predicate in the language of SQL/JSON paths on the fields of a row, for which there is no index.
* ``sort``, ``descending``: the path of the field to sort by, or None for the order of the list itself.
* ``offset``: how many rows to skip after those that ``after…`` excludes.
* ``counted``: whether each row has the number of all rows that match, before and after the page.
"""

from datetime import date, datetime
from typing import Final, NamedTuple

from sql import Connection

USE_CUSTOM_PLANS: Final = """
SELECT set_config('plan_cache_mode', 'force_custom_plan', true)
"""


async def use_custom_plans(connection: Connection) -> str:
    """Plan each statement of the current transaction for its parameters; return the name of that mode."""
    mode: str = await connection.fetchval(USE_CUSTOM_PLANS)
    return mode


class RosterUser(NamedTuple):
    """A student or an instructor, or what is left of a deleted one."""

    role: str
    id: int
    sourced_id: str
    external_id: str | None
    given_name: str | None
    family_name: str | None
    preferred_name: str | None
    email: str | None
    modified_at: datetime
    deleted: bool
    total: int | None


LIST_ROSTER_USERS: Final = """
WITH matching AS NOT MATERIALIZED (
    SELECT
        role, id, sourced_id, external_id, given_name, family_name, preferred_name, email, modified_at,
        deleted,
        document
    FROM (
        SELECT
            role, id, sourced_id, external_id, given_name, family_name, preferred_name, email, modified_at,
            deleted,
            jsonb_build_object(
                'sourcedId', sourced_id,
                'status', CASE WHEN deleted THEN 'tobedeleted' ELSE 'active' END,
                'dateLastModified', to_char(modified_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                'username', coalesce(external_id, email, sourced_id),
                'identifier', coalesce(external_id, sourced_id),
                'enabledUser', CASE WHEN deleted THEN 'false' ELSE 'true' END,
                'givenName', coalesce(given_name, ''),
                'familyName', coalesce(family_name, ''),
                'preferredFirstName', preferred_name,
                'email', email,
                'role', role,
                'roles', jsonb_build_object('role', role)
            ) AS document
        FROM (
            SELECT
                'student'::text AS role, id, sourced_id, external_id, given_name, family_name, preferred_name, email,
                updated_at AS modified_at, false AS deleted
            FROM students
            UNION ALL
            SELECT
                'teacher', id, sourced_id, external_id, given_name, family_name, NULL, email, updated_at, false
            FROM instructors
            UNION ALL
            SELECT
                CASE resource WHEN 'student' THEN 'student' ELSE 'teacher' END, id, sourced_id, NULL, NULL, NULL, NULL, NULL,
                deleted_at, true
            FROM tombstones
        ) AS users
    ) AS users
    WHERE role = ANY($4::text[])
        AND sourced_id IS NOT NULL
        AND (
            NOT deleted
            OR (
                (SELECT count(*) FROM students WHERE students.sourced_id = users.sourced_id) = 0
                AND (SELECT count(*) FROM instructors WHERE instructors.sourced_id = users.sourced_id) = 0
            )
        )
        AND ($5::text IS NULL OR sourced_id = $5)
        AND (
            $6::text IS NULL
            OR external_id = $6
            OR sourced_id = $6
            OR lower(email COLLATE "C") = lower($6 COLLATE "C")
        )
        AND (
            $7::bigint IS NULL
            OR id = ANY(
                CASE role
                    WHEN 'student' THEN ARRAY(
                        SELECT student_id
                        FROM student_courses
                        WHERE course_id = $7
                            AND status IN ('enrolled', 'completed')
                    )
                    ELSE ARRAY(
                        SELECT instructor_id
                        FROM course_instructors
                        WHERE course_id = $7
                            AND teaches
                    )
                END
            )
        )
        AND ($8::boolean IS NULL OR deleted = $8)
        AND ($9::timestamptz IS NULL OR modified_at >= $9)
        AND ($10::timestamptz IS NULL OR modified_at < $10)
        AND ($11::text IS NULL OR document @@ $11::jsonpath)
)
SELECT
    role, id, sourced_id, external_id, given_name, family_name, preferred_name, email, modified_at, deleted,
    CASE WHEN $14::boolean THEN (SELECT count(*) FROM matching) END AS total
FROM matching
WHERE sourced_id > $3::text
ORDER BY
    CASE WHEN NOT $13::boolean THEN (document #>> $12::text[]) COLLATE "C" END,
    CASE WHEN $13 THEN (document #>> $12) COLLATE "C" END DESC,
    sourced_id
LIMIT $1::bigint
OFFSET $2::bigint
"""


async def list_roster_users(
    connection: Connection,
    limit: int,
    offset: int,
    after: str,
    *,
    roles: list[str],
    sourced_id: str | None,
    named: str | None,
    class_id: int | None,
    deleted: bool | None,
    modified_from: datetime | None,
    modified_until: datetime | None,
    condition: str | None,
    sort: list[str] | None,
    descending: bool,
    counted: bool,
) -> list[RosterUser]:
    """Return a page of users in the order of their sourced ids, those after ``after``.

    ``named`` is an external id, a sourced id or an e-mail address, in any case; ``class_id`` is that of a course in which
    the students are and which the instructors teach.
    """
    rows = await connection.fetch(
        LIST_ROSTER_USERS,
        limit,
        offset,
        after,
        roles,
        sourced_id,
        named,
        class_id,
        deleted,
        modified_from,
        modified_until,
        condition,
        sort,
        descending,
        counted,
    )
    return [RosterUser._make(row) for row in rows]


class RosterClass(NamedTuple):
    """A course, or what is left of a deleted one.

    ``first_id`` is the lowest id of the courses with its code: they are the classes of one course of OneRoster. It is null
    for a deleted one.
    """

    id: int
    first_id: int | None
    code: str
    title: str
    section: str | None
    term_id: int | None
    modified_at: datetime
    deleted: bool
    total: int | None


LIST_ROSTER_CLASSES: Final = """
WITH matching AS NOT MATERIALIZED (
    SELECT
        resource, id, code, title, section, term_id, modified_at, deleted,
        document
    FROM (
        SELECT
            resource, id, code, title, section, term_id, modified_at, deleted,
            jsonb_build_object(
                'sourcedId', 'class-' || to_char(id, 'FM9999999990000000000'),
                'status', CASE WHEN deleted THEN 'tobedeleted' ELSE 'active' END,
                'dateLastModified', to_char(modified_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                'title', title,
                'classCode', concat_ws('-', code, section),
                'classType', 'scheduled',
                'course', jsonb_build_object(
                    'sourcedId',
                    (
                        SELECT 'course-' || to_char(min(same.id), 'FM9999999990000000000')
                        FROM courses AS same
                        WHERE lower(same.code) = lower(classes.code)
                    )
                ),
                'terms', jsonb_build_object('sourcedId', coalesce('term-' || to_char(term_id, 'FM9999999990000000000'), 'no-term'))
            ) AS document
        FROM (
            SELECT
                'course'::text AS resource, id, code, title, section, term_id, updated_at AS modified_at,
                status = 'cancelled' AS deleted
            FROM courses
            UNION ALL
            SELECT resource, id, '', '', NULL, NULL, deleted_at, true
            FROM tombstones
        ) AS classes
    ) AS classes
    WHERE resource = 'course'
        AND ($4::bigint IS NULL OR id = $4)
        AND ($5::bigint IS NULL OR lower(code) = (SELECT lower(code) FROM courses WHERE id = $5))
        AND ($6::bigint IS NULL OR term_id = $6 OR ($6 = 0 AND term_id IS NULL))
        AND (
            $7::bigint IS NULL
            OR id = ANY(
                ARRAY(
                    SELECT course_id
                    FROM student_courses
                    WHERE student_id = $7
                        AND status IN ('enrolled', 'completed')
                )
            )
        )
        AND (
            $8::bigint IS NULL
            OR id = ANY(
                ARRAY(
                    SELECT course_id
                    FROM course_instructors
                    WHERE instructor_id = $8
                        AND teaches
                )
            )
        )
        AND ($9::boolean IS NULL OR deleted = $9)
        AND ($10::timestamptz IS NULL OR modified_at >= $10)
        AND ($11::timestamptz IS NULL OR modified_at < $11)
        AND ($12::text IS NULL OR document @@ $12::jsonpath)
)
SELECT
    id, (
        SELECT min(same.id)
        FROM courses AS same
        WHERE lower(same.code) = lower(matching.code)
    ) AS first_id, code, title, section, term_id, modified_at, deleted,
    CASE WHEN $15::boolean THEN (SELECT count(*) FROM matching) END AS total
FROM matching
WHERE id > $3::bigint
ORDER BY
    CASE WHEN NOT $14::boolean THEN (document #>> $13::text[]) COLLATE "C" END,
    CASE WHEN $14 THEN (document #>> $13) COLLATE "C" END DESC,
    id
LIMIT $1::bigint
OFFSET $2::bigint
"""


async def list_roster_classes(
    connection: Connection,
    limit: int,
    offset: int,
    after_id: int,
    *,
    class_id: int | None,
    first_id: int | None,
    term_id: int | None,
    student_id: int | None,
    instructor_id: int | None,
    deleted: bool | None,
    modified_from: datetime | None,
    modified_until: datetime | None,
    condition: str | None,
    sort: list[str] | None,
    descending: bool,
    counted: bool,
) -> list[RosterClass]:
    """Return a page of classes in the order of their ids, those after ``after_id``.

    ``first_id`` is the id of any course with the code of the classes; ``term_id`` 0 stands for no term; ``student_id`` and
    ``instructor_id`` are those of a student in the classes and of an instructor who teaches them.
    """
    rows = await connection.fetch(
        LIST_ROSTER_CLASSES,
        limit,
        offset,
        after_id,
        class_id,
        first_id,
        term_id,
        student_id,
        instructor_id,
        deleted,
        modified_from,
        modified_until,
        condition,
        sort,
        descending,
        counted,
    )
    return [RosterClass._make(row) for row in rows]


class RosterCourse(NamedTuple):
    """The first of the courses with a code, which stands for all of them, or what is left of a deleted one."""

    id: int
    code: str
    title: str
    modified_at: datetime
    deleted: bool
    total: int | None


LIST_ROSTER_COURSES: Final = """
WITH matching AS NOT MATERIALIZED (
    SELECT
        resource, id, code, title, modified_at, deleted,
        document
    FROM (
        SELECT
            resource, id, code, title, modified_at, deleted,
            jsonb_build_object(
                'sourcedId', 'course-' || to_char(id, 'FM9999999990000000000'),
                'status', CASE WHEN deleted THEN 'tobedeleted' ELSE 'active' END,
                'dateLastModified', to_char(modified_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                'title', title,
                'courseCode', code
            ) AS document
        FROM (
            SELECT 'course'::text AS resource, id, code, title, updated_at AS modified_at, false AS deleted
            FROM courses
            UNION ALL
            SELECT resource, id, '', '', deleted_at, true
            FROM tombstones
        ) AS catalog
    ) AS catalog
    WHERE resource = 'course'
        AND ($4::bigint IS NULL OR id = $4)
        AND (
            deleted
            OR id = (SELECT min(same.id) FROM courses AS same WHERE lower(same.code) = lower(catalog.code))
        )
        AND ($5::boolean IS NULL OR deleted = $5)
        AND ($6::timestamptz IS NULL OR modified_at >= $6)
        AND ($7::timestamptz IS NULL OR modified_at < $7)
        AND ($8::text IS NULL OR document @@ $8::jsonpath)
)
SELECT
    id, code, title, modified_at, deleted,
    CASE WHEN $11::boolean THEN (SELECT count(*) FROM matching) END AS total
FROM matching
WHERE id > $3::bigint
ORDER BY
    CASE WHEN NOT $10::boolean THEN (document #>> $9::text[]) COLLATE "C" END,
    CASE WHEN $10 THEN (document #>> $9) COLLATE "C" END DESC,
    id
LIMIT $1::bigint
OFFSET $2::bigint
"""


async def list_roster_courses(
    connection: Connection,
    limit: int,
    offset: int,
    after_id: int,
    *,
    course_id: int | None,
    deleted: bool | None,
    modified_from: datetime | None,
    modified_until: datetime | None,
    condition: str | None,
    sort: list[str] | None,
    descending: bool,
    counted: bool,
) -> list[RosterCourse]:
    """Return a page of courses of OneRoster in the order of their ids, those after ``after_id``."""
    rows = await connection.fetch(
        LIST_ROSTER_COURSES,
        limit,
        offset,
        after_id,
        course_id,
        deleted,
        modified_from,
        modified_until,
        condition,
        sort,
        descending,
        counted,
    )
    return [RosterCourse._make(row) for row in rows]


class RosterEnrollment(NamedTuple):
    """An enrollment of a student, or the teaching of an instructor; never a place on a waitlist.

    ``began_at`` is null for an instructor, ``is_primary`` for a student.
    """

    role: str
    person_id: int
    course_id: int
    sourced_id: str
    status: str
    is_primary: bool | None
    began_at: datetime | None
    modified_at: datetime
    deleted: bool
    total: int | None


LIST_ROSTER_ENROLLMENTS: Final = """
WITH matching AS NOT MATERIALIZED (
    SELECT
        role, person_id, course_id, status, is_primary, began_at, modified_at, deleted,
        document
    FROM (
        SELECT
            role, person_id, course_id, status, is_primary, began_at, modified_at, deleted,
            jsonb_build_object(
                'sourcedId', concat_ws('-', 'enrollment', to_char(person_id, 'FM9999999990000000000'), to_char(course_id, 'FM9999999990000000000'), role),
                'status', CASE WHEN deleted THEN 'tobedeleted' ELSE 'active' END,
                'dateLastModified', to_char(modified_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                'role', role,
                'primary', is_primary::text,
                'beginDate', to_char(began_at AT TIME ZONE 'UTC', 'YYYY-MM-DD'),
                'endDate', CASE
                    WHEN status <> 'enrolled' THEN to_char(modified_at AT TIME ZONE 'UTC' + interval '1 day', 'YYYY-MM-DD')
                END,
                'class', jsonb_build_object('sourcedId', 'class-' || to_char(course_id, 'FM9999999990000000000')),
                'user', jsonb_build_object(
                    'sourcedId',
                    CASE role
                        WHEN 'student' THEN (SELECT sourced_id FROM students WHERE students.id = roster.person_id)
                        ELSE (SELECT sourced_id FROM instructors WHERE instructors.id = roster.person_id)
                    END
                )
            ) AS document
        FROM (
            SELECT
                'student'::text AS role, student_id AS person_id, course_id, status, NULL::boolean AS is_primary,
                joined_at AS began_at, updated_at AS modified_at, status IN ('dropped', 'withdrawn') AS deleted
            FROM student_courses
            UNION ALL
            SELECT
                'teacher', instructor_id, course_id, CASE WHEN teaches THEN 'enrolled' ELSE 'dropped' END, is_primary,
                NULL, updated_at, NOT teaches
            FROM course_instructors
        ) AS roster
    ) AS roster
    WHERE status <> 'waitlisted'
        AND ($6::text IS NULL OR role = $6)
        AND ($7::bigint IS NULL OR person_id = $7)
        AND ($8::bigint IS NULL OR course_id = $8)
        AND ($9::boolean IS NULL OR deleted = $9)
        AND ($10::timestamptz IS NULL OR modified_at >= $10)
        AND ($11::timestamptz IS NULL OR modified_at < $11)
        AND ($12::text IS NULL OR document @@ $12::jsonpath)
)
SELECT
    role, person_id, course_id,
    CASE role
        WHEN 'student' THEN (SELECT sourced_id FROM students WHERE students.id = matching.person_id)
        ELSE (SELECT sourced_id FROM instructors WHERE instructors.id = matching.person_id)
    END AS sourced_id,
    status, is_primary, began_at, modified_at, deleted,
    CASE WHEN $15::boolean THEN (SELECT count(*) FROM matching) END AS total
FROM matching
WHERE (person_id, course_id, role) > ($3::bigint, $4::bigint, $5::text)
ORDER BY
    CASE WHEN NOT $14::boolean THEN (document #>> $13::text[]) COLLATE "C" END,
    CASE WHEN $14 THEN (document #>> $13) COLLATE "C" END DESC,
    person_id, course_id, role
LIMIT $1::bigint
OFFSET $2::bigint
"""


async def list_roster_enrollments(
    connection: Connection,
    limit: int,
    offset: int,
    *,
    after_person_id: int,
    after_course_id: int,
    after_role: str,
    role: str | None,
    person_id: int | None,
    course_id: int | None,
    deleted: bool | None,
    modified_from: datetime | None,
    modified_until: datetime | None,
    condition: str | None,
    sort: list[str] | None,
    descending: bool,
    counted: bool,
) -> list[RosterEnrollment]:
    """Return a page of enrollments in the order of their persons, courses and roles, those after the given keys.

    ``role`` is ``student`` or ``teacher``; ``person_id`` is the id of a student or an instructor.
    """
    rows = await connection.fetch(
        LIST_ROSTER_ENROLLMENTS,
        limit,
        offset,
        after_person_id,
        after_course_id,
        after_role,
        role,
        person_id,
        course_id,
        deleted,
        modified_from,
        modified_until,
        condition,
        sort,
        descending,
        counted,
    )
    return [RosterEnrollment._make(row) for row in rows]


class RosterSession(NamedTuple):
    """An academic session: a term, its grading period, the session of all courses without a term, or a deleted term.

    ``last_day`` is inclusive; ``part_ids`` are the parts of a term.
    """

    type: str
    id: int
    title: str
    first_day: date
    last_day: date
    parent_id: int | None
    part_ids: list[int]
    modified_at: datetime
    deleted: bool
    total: int | None


LIST_ROSTER_SESSIONS: Final = """
WITH matching AS NOT MATERIALIZED (
    SELECT
        type, id, title, first_day, last_day, parent_id, modified_at, deleted,
        document
    FROM (
        SELECT
            type, id, title, first_day, last_day, parent_id, modified_at, deleted,
            jsonb_build_object(
                'sourcedId', CASE type
                    WHEN 'term' THEN 'term-' || to_char(id, 'FM9999999990000000000')
                    WHEN 'gradingPeriod' THEN 'gp-term-' || to_char(id, 'FM9999999990000000000')
                    ELSE 'no-term'
                END,
                'status', CASE WHEN deleted THEN 'tobedeleted' ELSE 'active' END,
                'dateLastModified', to_char(modified_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                'title', title,
                'startDate', to_char(first_day, 'YYYY-MM-DD'),
                'endDate', to_char(last_day + 1, 'YYYY-MM-DD'),
                'type', type,
                'schoolYear', to_char(last_day, 'YYYY'),
                'parent', jsonb_build_object('sourcedId', 'term-' || to_char(parent_id, 'FM9999999990000000000')),
                'children', CASE type
                    WHEN 'term' THEN jsonb_build_array(
                        jsonb_build_object('sourcedId', 'gp-term-' || to_char(id, 'FM9999999990000000000'))
                    ) || coalesce(
                        (
                            SELECT jsonb_agg(jsonb_build_object('sourcedId', 'term-' || to_char(part.id, 'FM9999999990000000000')))
                            FROM terms AS part
                            WHERE part.parent_id = sessions.id
                        ),
                        '[]'
                    )
                END
            ) AS document
        FROM (
            SELECT
                'term'::text AS type, id, name AS title, starts_on AS first_day, ends_on AS last_day, parent_id,
                updated_at AS modified_at, false AS deleted
            FROM terms
            UNION ALL
            SELECT 'gradingPeriod', id, name, starts_on, ends_on, id, updated_at, false
            FROM terms
            UNION ALL
            SELECT
                'schoolYear', 0::bigint, 'Courses without a term', make_date($5::bigint::int, 1, 1), make_date($5::int, 12, 31), NULL,
                make_date($5::int, 1, 1)::timestamp AT TIME ZONE 'UTC', false
            FROM feed
            UNION ALL
            SELECT 'term', id, '', deleted_at::date, deleted_at::date, NULL, deleted_at, true
            FROM tombstones
            WHERE resource = 'term'
            UNION ALL
            SELECT 'gradingPeriod', id, '', deleted_at::date, deleted_at::date, id, deleted_at, true
            FROM tombstones
            WHERE resource = 'term'
        ) AS sessions
    ) AS sessions
    WHERE type = ANY($6::text[])
        AND ($7::bigint IS NULL OR id = $7)
        AND ($8::boolean IS NULL OR deleted = $8)
        AND ($9::timestamptz IS NULL OR modified_at >= $9)
        AND ($10::timestamptz IS NULL OR modified_at < $10)
        AND ($11::text IS NULL OR document @@ $11::jsonpath)
)
SELECT
    type, id, title, first_day, last_day, parent_id,
    ARRAY(SELECT part.id FROM terms AS part WHERE part.parent_id = matching.id ORDER BY part.id) AS part_ids,
    modified_at, deleted,
    CASE WHEN $14::boolean THEN (SELECT count(*) FROM matching) END AS total
FROM matching
WHERE (type, id) > ($3::text, $4::bigint)
ORDER BY
    CASE WHEN NOT $13::boolean THEN (document #>> $12::text[]) COLLATE "C" END,
    CASE WHEN $13 THEN (document #>> $12) COLLATE "C" END DESC,
    type, id
LIMIT $1::bigint
OFFSET $2::bigint
"""


async def list_roster_sessions(
    connection: Connection,
    limit: int,
    offset: int,
    after_type: str,
    *,
    after_id: int,
    year: int,
    types: list[str],
    session_id: int | None,
    deleted: bool | None,
    modified_from: datetime | None,
    modified_until: datetime | None,
    condition: str | None,
    sort: list[str] | None,
    descending: bool,
    counted: bool,
) -> list[RosterSession]:
    """Return a page of academic sessions in the order of their types and ids, those after the given keys."""
    rows = await connection.fetch(
        LIST_ROSTER_SESSIONS,
        limit,
        offset,
        after_type,
        after_id,
        year,
        types,
        session_id,
        deleted,
        modified_from,
        modified_until,
        condition,
        sort,
        descending,
        counted,
    )
    return [RosterSession._make(row) for row in rows]
