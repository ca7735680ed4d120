-- depends: 0016_index_lines
-- transactional: false

-- What a foreign key needs, and nothing more: few rows have one.
-- A build that was killed leaves an invalid index behind, which IF NOT EXISTS would take for the real one.
DROP INDEX CONCURRENTLY IF EXISTS student_courses_override_id_idx;

-- squawk-ignore ban-concurrent-index-creation-in-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS student_courses_override_id_idx ON student_courses (override_id) WHERE override_id IS NOT NULL;
