-- depends: 0013_validate_constraints
-- transactional: false

-- Courses without a term may share a code: null differs from null.
-- A build that was killed leaves an invalid index behind, which IF NOT EXISTS would take for the real one.
DROP INDEX CONCURRENTLY IF EXISTS courses_term_id_code_key;

-- squawk-ignore ban-concurrent-index-creation-in-transaction
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS courses_term_id_code_key ON courses (term_id, code);
