-- depends: 0008_create_overrides

-- The state of one student in one course.
-- "joined_position" is the position of the event that gave the seat or put the student on the waitlist.
-- "passed_code" is the code under which the student completed the course, where the course has another one since.
-- "swap_drops" are the courses that the student drops on getting this one.
-- "blocked_reasons" are the reasons for which the last promotion passed the waitlisted student by.
-- "recheck_at" is null where nothing has judged the waitlisted student yet. Else the student is blocked for the reasons
-- in "blocked_reasons", until then or until something of the student or the course changes; the year 9999 means never.
-- The primary key includes what a student's list of courses shows: every change reads that list, from the index alone.
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

-- The foreign key needs it; few rows have an override.
CREATE INDEX student_courses_override_id_idx ON student_courses (override_id) WHERE override_id IS NOT NULL;

-- A course's waitlist, in order.
CREATE INDEX student_courses_waitlist_idx ON student_courses (course_id, joined_position) WHERE status = 'waitlisted';

-- The waitlisted students that a free seat is offered to, in order.
CREATE INDEX student_courses_unjudged_idx ON student_courses (course_id, joined_position)
WHERE status = 'waitlisted' AND recheck_at IS NULL;

-- The blocked students that the clock may make eligible: a few of all.
CREATE INDEX student_courses_recheck_at_idx ON student_courses (recheck_at, course_id)
WHERE status = 'waitlisted' AND recheck_at < '9999-12-31 00:00:00+00';

-- The students who completed a course under a code that it has no longer: a few of all.
CREATE INDEX student_courses_passed_code_idx ON student_courses (student_id) WHERE passed_code IS NOT NULL;

-- The waitlists that a student is on: their positions are shown, and blocked ones are judged again.
CREATE INDEX student_courses_waitlisted_idx ON student_courses (student_id, course_id, joined_position)
WHERE status = 'waitlisted';
