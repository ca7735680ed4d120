-- depends: 0015_index_courses_with_waitlists
-- transactional: false

-- A course's waitlist, in order.
-- A build that was killed leaves an invalid index behind, which IF NOT EXISTS would take for the real one.
DROP INDEX CONCURRENTLY IF EXISTS student_courses_line_idx;

-- squawk-ignore ban-concurrent-index-creation-in-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS student_courses_line_idx ON student_courses (course_id, place) WHERE status = 'waitlisted';
