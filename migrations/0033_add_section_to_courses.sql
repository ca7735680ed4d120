-- depends: 0032_create_course_instructors

ALTER TABLE courses ADD COLUMN section text;
