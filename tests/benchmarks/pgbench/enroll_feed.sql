-- Enrolls a random student in two random courses; the lock of the feed row gives events contiguous positions.
-- The transaction is sent to the server as a whole. Only one transaction writes at a time, so courses are not locked.
\set student random(1, :students)
\set one random(1, :courses)
\set other 1 + (:one - 1 + random(1, :courses - 1)) % :courses
\startpipeline
BEGIN;
SELECT epoch
FROM feed
FOR UPDATE;
SELECT students.id, mine.course_id, mine.status
FROM students
LEFT JOIN student_courses AS mine ON mine.student_id = students.id AND mine.course_id IN (:one, :other)
WHERE students.id = :student;
WITH placed AS (
    INSERT INTO student_courses (student_id, course_id, status, joined_position, joined_at, updated_at)
    SELECT
        :student, id, 'enrolled', (SELECT max(position) FROM events) + row_number() OVER (ORDER BY id),
        clock_timestamp(), clock_timestamp()
    FROM courses
    WHERE id IN (:one, :other)
        AND (capacity IS NULL OR seats_taken < capacity)
        AND NOT EXISTS (
            SELECT FROM student_courses AS mine WHERE mine.student_id = :student AND mine.course_id = courses.id
        )
    RETURNING course_id, joined_position, joined_at
), appended AS (
    INSERT INTO events (position, type, occurred_at, request_id, student_id, course_id, after)
    SELECT joined_position, 'enrollment.enrolled', joined_at, gen_random_uuid()::text, :student, course_id, '{"status":"enrolled"}'
    FROM placed
)
UPDATE courses
SET seats_taken = seats_taken + 1
FROM placed
WHERE courses.id = placed.course_id;
COMMIT;
\endpipeline
