DROP TABLE course_instructors;
