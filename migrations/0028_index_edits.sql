-- depends: 0027_index_waitlist_places_of_students
-- transactional: false

-- The changes of courses and terms, which are few among millions of events: each process looks for those of the others.
-- A build that was killed leaves an invalid index behind, which IF NOT EXISTS would take for the real one.
DROP INDEX CONCURRENTLY IF EXISTS events_edits_idx;

-- squawk-ignore ban-concurrent-index-creation-in-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS events_edits_idx ON events (position) WHERE student_id IS NULL;
