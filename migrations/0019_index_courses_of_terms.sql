-- depends: 0018_index_history
-- transactional: false

-- A term's courses, page by page.
-- A build that was killed leaves an invalid index behind, which IF NOT EXISTS would take for the real one.
DROP INDEX CONCURRENTLY IF EXISTS courses_term_id_idx;

-- squawk-ignore ban-concurrent-index-creation-in-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS courses_term_id_idx ON courses (term_id, id);
