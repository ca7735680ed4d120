ALTER TABLE student_courses DROP COLUMN recheck_at;
