-- depends: 0024_mark_blocked_waitlist_places
-- transactional: false

-- The waitlisted students whom a free seat looks at, in order.
-- A build that was killed leaves an invalid index behind, which IF NOT EXISTS would take for the real one.
DROP INDEX CONCURRENTLY IF EXISTS student_courses_unjudged_idx;

-- squawk-ignore ban-concurrent-index-creation-in-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS student_courses_unjudged_idx ON student_courses (course_id, place) WHERE status = 'waitlisted' AND recheck_at IS NULL;
