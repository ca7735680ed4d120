-- depends: 0025_update_students

-- The index of a million students is built in two seconds. Only changes of students wait for that, no enrollment does.
-- squawk-ignore require-concurrent-index-creation
CREATE UNIQUE INDEX students_sourced_id_key ON students (sourced_id);
