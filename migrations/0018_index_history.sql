-- depends: 0017_index_used_overrides
-- transactional: false

-- The history of a student in a course.
-- A build that was killed leaves an invalid index behind, which IF NOT EXISTS would take for the real one.
DROP INDEX CONCURRENTLY IF EXISTS events_student_id_course_id_idx;

-- squawk-ignore ban-concurrent-index-creation-in-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS events_student_id_course_id_idx ON events (student_id, course_id, position);
