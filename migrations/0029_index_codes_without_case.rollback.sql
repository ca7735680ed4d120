-- transactional: false

ALTER TABLE terms DROP CONSTRAINT IF EXISTS terms_code_key;

DROP INDEX CONCURRENTLY IF EXISTS terms_code_key;

ALTER TABLE terms ADD CONSTRAINT terms_code_key UNIQUE (code);

DROP INDEX CONCURRENTLY IF EXISTS courses_code_idx;

CREATE INDEX CONCURRENTLY courses_code_idx ON courses (code, id);

DROP INDEX CONCURRENTLY IF EXISTS courses_term_id_code_key;

CREATE UNIQUE INDEX CONCURRENTLY courses_term_id_code_key ON courses (term_id, code);
