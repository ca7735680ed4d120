-- depends: 0026_index_rechecks
-- transactional: false

-- The waitlist places of a student: blocked ones are judged again, and positions are shown.
-- A build that was killed leaves an invalid index behind, which IF NOT EXISTS would take for the real one.
DROP INDEX CONCURRENTLY IF EXISTS student_courses_waitlisted_idx;

-- squawk-ignore ban-concurrent-index-creation-in-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS student_courses_waitlisted_idx ON student_courses (student_id, course_id, place) WHERE status = 'waitlisted';
