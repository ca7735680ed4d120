ALTER TABLE student_courses DROP COLUMN reserved_group;
