-- depends: 0008_create_overrides

-- The state of one student in one course.
-- "joined_position" is the position of the event that gave the seat or put the student on the waitlist.
-- "passed_code" is the code under which the student completed the course, if the code has changed since.
-- "swap_drops" lists the courses that are dropped when the student gets this one.
-- "blocked_reasons" lists the reasons why the last promotion passed over the waitlisted student.
-- "recheck_at" is null while the waitlisted student is unjudged. Otherwise the student is blocked for the reasons in
-- "blocked_reasons" until this time, or until something relevant to the student or the course changes; the year 9999
-- means that time alone never changes the result.
-- The primary key includes the columns of a student's list of courses; every change reads it from the index alone.
CREATE TABLE student_courses (
    student_id bigint NOT NULL,
    course_id bigint NOT NULL,
    status text NOT NULL,
    joined_position bigint NOT NULL,
    joined_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    passed boolean,
    grade text,
    passed_code text,
    override_id bigint,
    swap_drops json,
    blocked_reasons json,
    recheck_at timestamptz,
    CONSTRAINT student_courses_pkey PRIMARY KEY (student_id, course_id)
        INCLUDE (status, passed, joined_position, joined_at, grade),
    CONSTRAINT student_courses_student_id_fkey FOREIGN KEY (student_id) REFERENCES students (id),
    CONSTRAINT student_courses_course_id_fkey FOREIGN KEY (course_id) REFERENCES courses (id),
    CONSTRAINT student_courses_override_id_fkey FOREIGN KEY (override_id) REFERENCES overrides (id),
    CONSTRAINT student_courses_status_check CHECK (
        status IN ('enrolled', 'waitlisted', 'completed', 'dropped', 'withdrawn')
    )
);

CREATE INDEX student_courses_course_id_idx ON student_courses (course_id, status, student_id);

-- Serves the foreign key; few rows have an override.
CREATE INDEX student_courses_override_id_idx ON student_courses (override_id) WHERE override_id IS NOT NULL;

-- Serves the waitlist of a course, in order.
CREATE INDEX student_courses_waitlist_idx ON student_courses (course_id, joined_position) WHERE status = 'waitlisted';

-- Serves promotion: the unjudged students of a course, in waitlist order.
CREATE INDEX student_courses_unjudged_idx ON student_courses (course_id, joined_position)
WHERE status = 'waitlisted' AND recheck_at IS NULL;

-- Serves the sweep: the few blocked students who may become eligible through the passage of time alone.
CREATE INDEX student_courses_recheck_at_idx ON student_courses (recheck_at, course_id)
WHERE status = 'waitlisted' AND recheck_at < '9999-12-31 00:00:00+00';

-- Serves requirements: the few students who completed a course under a former code.
CREATE INDEX student_courses_passed_code_idx ON student_courses (student_id) WHERE passed_code IS NOT NULL;

-- Serves the waitlists of a student: the API shows the positions, and a change marks blocked entries as unjudged.
CREATE INDEX student_courses_waitlisted_idx ON student_courses (student_id, course_id, joined_position)
WHERE status = 'waitlisted';
