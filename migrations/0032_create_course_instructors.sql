-- depends: 0031_create_instructors

-- Who teaches a course, and who was in the list before: "teaches" is then false. Rows are deleted with their course only.
CREATE TABLE course_instructors (
    course_id bigint NOT NULL,
    instructor_id bigint NOT NULL,
    teaches boolean NOT NULL,
    is_primary boolean NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT course_instructors_pkey PRIMARY KEY (course_id, instructor_id),
    CONSTRAINT course_instructors_course_id_fkey FOREIGN KEY (course_id) REFERENCES courses (id) ON DELETE CASCADE,
    CONSTRAINT course_instructors_instructor_id_fkey FOREIGN KEY (instructor_id) REFERENCES instructors (id),
    CONSTRAINT course_instructors_primary_check CHECK (teaches OR NOT is_primary)
);

-- Serves the courses of an instructor, and the foreign key.
CREATE INDEX course_instructors_instructor_id_idx ON course_instructors (instructor_id, course_id);
