-- depends: 0003_create_courses

-- The state of one student in one course. "place" is the position of the event that put the student there.
CREATE TABLE student_courses (
    student_id bigint NOT NULL,
    course_id bigint NOT NULL,
    status text NOT NULL,
    place bigint NOT NULL,
    joined_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT student_courses_pkey PRIMARY KEY (student_id, course_id),
    CONSTRAINT student_courses_student_id_fkey FOREIGN KEY (student_id) REFERENCES students (id),
    CONSTRAINT student_courses_course_id_fkey FOREIGN KEY (course_id) REFERENCES courses (id),
    CONSTRAINT student_courses_status_check CHECK (
        status IN ('enrolled', 'waitlisted', 'completed', 'dropped', 'withdrawn')
    )
);

CREATE INDEX student_courses_course_id_idx ON student_courses (course_id, status, student_id);
