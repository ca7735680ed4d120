-- depends: 0005_create_courses

-- Any one code satisfies a group; all groups of a course must be satisfied.
CREATE TABLE requirements (
    course_id bigint NOT NULL,
    kind text NOT NULL,
    group_number bigint NOT NULL,
    code text NOT NULL,
    CONSTRAINT requirements_pkey PRIMARY KEY (course_id, group_number, code),
    CONSTRAINT requirements_course_id_fkey FOREIGN KEY (course_id) REFERENCES courses (id) ON DELETE CASCADE,
    CONSTRAINT requirements_kind_check CHECK (kind IN ('pre', 'co', 'anti'))
);

-- Serves the search for courses that exclude a code, regardless of case.
CREATE INDEX requirements_anti_idx ON requirements (lower(code)) WHERE kind = 'anti';
