ALTER TABLE student_courses DROP COLUMN requirement_lost;
