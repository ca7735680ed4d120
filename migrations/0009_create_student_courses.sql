-- depends: 0008_create_overrides

-- The state of one student in one course.
-- "place" is the position of the event that put the student there.
-- "swap_drops" are the courses that the student drops on getting this one.
-- "skipped" is why the last promotion passed the waitlisted student by.
-- "recheck_at" is null where nothing has judged the waitlisted student yet. Else the student is blocked for the reasons
-- in "skipped", until then or until something of the student or the course changes; the year 9999 means never.
-- The primary key includes what a student's list of courses shows: every change reads that list, from the index alone.
CREATE TABLE student_courses (
    student_id bigint NOT NULL,
    course_id bigint NOT NULL,
    status text NOT NULL,
    place bigint NOT NULL,
    joined_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    passed boolean,
    grade text,
    override_id bigint,
    swap_drops json,
    skipped json,
    recheck_at timestamptz,
    CONSTRAINT student_courses_pkey PRIMARY KEY (student_id, course_id)
        INCLUDE (status, passed, place, joined_at, grade),
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
CREATE INDEX student_courses_line_idx ON student_courses (course_id, place) WHERE status = 'waitlisted';

-- The waitlisted students that a free seat is offered to, in order.
CREATE INDEX student_courses_unjudged_idx ON student_courses (course_id, place)
WHERE status = 'waitlisted' AND recheck_at IS NULL;

-- The blocked students that the clock may make eligible: a few of all.
CREATE INDEX student_courses_recheck_at_idx ON student_courses (recheck_at, course_id)
WHERE status = 'waitlisted' AND recheck_at < '9999-12-31 00:00:00+00';

-- The waitlists that a student is on: their positions are shown, and blocked ones are judged again.
CREATE INDEX student_courses_waitlisted_idx ON student_courses (student_id, course_id, place)
WHERE status = 'waitlisted';
