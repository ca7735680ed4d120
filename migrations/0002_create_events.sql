-- depends: 0001_create_feed

-- Every change, in the order of the feed. Rows are appended and never updated.
CREATE TABLE events (
    position bigint,
    type text NOT NULL,
    occurred_at timestamptz NOT NULL,
    actor text,
    on_behalf_of text,
    request_id text NOT NULL,
    reason text,
    student_id bigint,
    course_id bigint,
    term_id bigint,
    before json,
    after json,
    CONSTRAINT events_pkey PRIMARY KEY (position),
    CONSTRAINT events_position_check CHECK (position > 0)
);

-- Serves the history of a student in a course.
CREATE INDEX events_student_id_course_id_idx ON events (student_id, course_id, position);

-- Serves the changes of courses and terms, few among millions of events: each process looks for those of the others.
CREATE INDEX events_edits_idx ON events (position) WHERE student_id IS NULL;
