-- depends: 0014_index_courses_by_term
-- transactional: false

-- The sweep's: a handful of courses out of all.
-- A build that was killed leaves an invalid index behind, which IF NOT EXISTS would take for the real one.
DROP INDEX CONCURRENTLY IF EXISTS courses_waitlisted_idx;

-- squawk-ignore ban-concurrent-index-creation-in-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS courses_waitlisted_idx ON courses (id) WHERE waitlisted > 0;
