"""The SQL statements."""

PREPARE_SEQUENCE = """
CREATE SEQUENCE IF NOT EXISTS benchmark_events_position;
SELECT setval(
    'benchmark_events_position',
    greatest((SELECT max(position) FROM events), (SELECT last_value FROM benchmark_events_position))
);
"""

LOCK_COURSES = """
SELECT id, external_id, code, title, credits, term_id, capacity, waitlist_capacity, seats_taken, waitlisted
FROM courses
WHERE id = ANY($1::bigint[])
ORDER BY id
FOR UPDATE
"""

# Returns at least one row if the student exists.
LOAD_STATUSES = """
SELECT mine.course_id, mine.status, mine.joined_at
FROM students
LEFT JOIN student_courses AS mine ON mine.student_id = students.id AND mine.course_id = ANY($2::bigint[])
WHERE students.id = $1
"""

LOAD_FIRST_WAITLISTED = """
SELECT student_id
FROM student_courses
WHERE course_id = $1 AND status = 'waitlisted'
ORDER BY joined_position
LIMIT 1
"""

# The courses are locked, so their new counters are known, and joined positions are assigned under the lock.
SAVE_MOVES = """
WITH appended AS (
    INSERT INTO events (position, type, occurred_at, request_id, student_id, course_id, before, after)
    SELECT
        nextval('benchmark_events_position'), 'enrollment.' || event, clock_timestamp(), $1, student_id, course_id,
        CASE WHEN before IS NOT NULL THEN json_build_object('status', before) END,
        json_build_object('status', after)
    FROM unnest($2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[])
        AS moves (student_id, course_id, event, before, after)
    RETURNING position, occurred_at, student_id, course_id, after ->> 'status' AS status
), counted AS (
    UPDATE courses
    SET seats_taken = counts.seats_taken, waitlisted = counts.waitlisted
    FROM unnest($7::bigint[], $8::bigint[], $9::bigint[]) AS counts (course_id, seats_taken, waitlisted)
    WHERE courses.id = counts.course_id
)
INSERT INTO student_courses AS mine (student_id, course_id, status, joined_position, joined_at, updated_at)
SELECT student_id, course_id, status, position, occurred_at, occurred_at
FROM appended
ON CONFLICT (student_id, course_id) DO UPDATE SET
    status = excluded.status,
    joined_position = CASE WHEN excluded.status = 'dropped' THEN mine.joined_position ELSE excluded.joined_position END,
    joined_at = CASE WHEN excluded.status = 'dropped' THEN mine.joined_at ELSE excluded.joined_at END,
    updated_at = excluded.updated_at
"""

LIST_STUDENT_COURSES = """
SELECT
    mine.course_id, mine.status, mine.joined_at, mine.passed, mine.grade,
    courses.external_id, courses.code, courses.title, courses.credits, courses.term_id,
    CASE WHEN mine.status = 'waitlisted' THEN (
        SELECT count(*)
        FROM student_courses AS ahead
        WHERE ahead.course_id = mine.course_id AND ahead.status = 'waitlisted' AND ahead.joined_position <= mine.joined_position
    ) END AS position
FROM student_courses AS mine
JOIN courses ON courses.id = mine.course_id
WHERE mine.student_id = $1 AND mine.status = ANY($2::text[]) AND mine.course_id > $3
ORDER BY mine.course_id
LIMIT $4
"""

LIST_COURSE_STUDENTS = """
SELECT
    roster.student_id, roster.status, roster.joined_at, students.external_id,
    students.given_name, students.family_name, students.email
FROM student_courses AS roster
JOIN students ON students.id = roster.student_id
WHERE roster.course_id = $1 AND roster.status = $2 AND roster.student_id > $3
ORDER BY roster.student_id
LIMIT $4
"""

LIST_WAITLIST = """
SELECT
    waitlist.student_id, waitlist.status, waitlist.joined_at, students.external_id,
    students.given_name, students.family_name, students.email
FROM student_courses AS waitlist
JOIN students ON students.id = waitlist.student_id
WHERE waitlist.course_id = $1 AND waitlist.status = 'waitlisted'
ORDER BY waitlist.joined_position
OFFSET $2
LIMIT $3
"""

GET_STUDENT = """
SELECT id, external_id, given_name, family_name, email, max_credits, version, created_at, updated_at
FROM students
WHERE id = $1
"""

COURSE_COLUMNS = """
    id, external_id, code, title, credits, term_id, capacity, waitlist_capacity, meetings, status, seats_taken,
    CASE WHEN capacity IS NOT NULL THEN greatest(capacity - seats_taken, 0) END AS seats_free,
    waitlisted, version, created_at, updated_at
"""
GET_COURSE = f"SELECT {COURSE_COLUMNS} FROM courses WHERE id = $1"
LIST_COURSES = f"SELECT {COURSE_COLUMNS} FROM courses WHERE id > $1 ORDER BY id LIMIT $2"
