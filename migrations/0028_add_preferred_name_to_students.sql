-- depends: 0027_alter_students_sourced_id

ALTER TABLE students ADD COLUMN preferred_name text;
