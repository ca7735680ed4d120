-- transactional: false
-- depends: 0056_create_tombstones

DROP INDEX IF EXISTS students_updated_at_idx;

-- Serves systems that ask which users have changed since they asked last.
CREATE INDEX CONCURRENTLY students_updated_at_idx ON students (updated_at);
