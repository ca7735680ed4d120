-- depends: 0025_index_unjudged_waitlist_places
-- transactional: false

-- The blocked students whom the clock may make eligible: a few of all.
-- A build that was killed leaves an invalid index behind, which IF NOT EXISTS would take for the real one.
DROP INDEX CONCURRENTLY IF EXISTS student_courses_recheck_at_idx;

-- squawk-ignore ban-concurrent-index-creation-in-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS student_courses_recheck_at_idx ON student_courses (recheck_at, course_id) WHERE status = 'waitlisted' AND recheck_at < '9999-12-31 00:00:00+00';
