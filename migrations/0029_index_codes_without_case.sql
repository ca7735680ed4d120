-- depends: 0028_index_edits
-- transactional: false

-- Codes are compared without regard to case. Each statement can be run again, as after a build that was killed.
DROP INDEX CONCURRENTLY IF EXISTS courses_term_id_code_key;

-- squawk-ignore ban-concurrent-index-creation-in-transaction
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS courses_term_id_code_key ON courses (lower(code), term_id);

DROP INDEX CONCURRENTLY IF EXISTS courses_code_idx;

-- squawk-ignore ban-concurrent-index-creation-in-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS courses_code_idx ON courses (lower(code), id);

-- squawk-ignore ban-drop-constraint
ALTER TABLE terms DROP CONSTRAINT IF EXISTS terms_code_key;

DROP INDEX CONCURRENTLY IF EXISTS terms_code_key;

-- squawk-ignore ban-concurrent-index-creation-in-transaction
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS terms_code_key ON terms (lower(code));
