-- depends: 0019_alter_students_sourced_id

ALTER TABLE students ADD COLUMN preferred_name text;
