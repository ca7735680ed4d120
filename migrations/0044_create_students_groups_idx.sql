-- depends: 0043_create_requirements_min_grade_idx

-- Serves the filter by group. Students without groups have no entry in it. No student has groups before this version, so
-- that the index is built at once.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX students_groups_idx ON students USING gin (groups) WITH (fastupdate = off) WHERE groups <> '{}';
