-- The one row that every writing transaction locks first, and the append-only record of every change.

CREATE TABLE feed (
    id smallint DEFAULT 1,
    epoch uuid NOT NULL DEFAULT gen_random_uuid(),
    CONSTRAINT feed_pkey PRIMARY KEY (id),
    CONSTRAINT feed_one_row_check CHECK (id = 1)
);

INSERT INTO feed DEFAULT VALUES;

CREATE TABLE events (
    position bigint,
    type text NOT NULL,
    occurred_at timestamptz NOT NULL,
    actor text,
    request_id text NOT NULL,
    reason text,
    student_id bigint,
    course_id bigint,
    before json,
    after json,
    CONSTRAINT events_pkey PRIMARY KEY (position),
    CONSTRAINT events_position_check CHECK (position > 0)
);
