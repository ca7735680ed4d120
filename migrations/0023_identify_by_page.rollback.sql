ALTER TABLE student_courses
    DROP CONSTRAINT student_courses_pkey,
    ADD CONSTRAINT student_courses_pkey PRIMARY KEY (student_id, course_id) INCLUDE (status, passed);

CREATE UNIQUE INDEX student_courses_page_key ON student_courses (student_id, course_id) INCLUDE (status, passed, place, joined_at, grade);
