-- depends: 0026_index_rechecks
-- transactional: false

-- The blocked waitlist places of a student.
-- A build that was killed leaves an invalid index behind, which IF NOT EXISTS would take for the real one.
DROP INDEX CONCURRENTLY IF EXISTS student_courses_blocked_idx;

-- squawk-ignore ban-concurrent-index-creation-in-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS student_courses_blocked_idx ON student_courses (student_id) WHERE status = 'waitlisted' AND recheck_at IS NOT NULL;
