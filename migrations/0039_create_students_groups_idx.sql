-- depends: 0038_create_requirements_code_idx
-- transactional: false

DROP INDEX IF EXISTS students_groups_idx;

-- Serves the filter by group. Students without groups have no entry in it.
CREATE INDEX CONCURRENTLY students_groups_idx ON students USING gin (groups) WITH (fastupdate = off) WHERE groups <> '{}';
