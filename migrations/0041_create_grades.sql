-- depends: 0040_create_delete_merged_enrollments

-- The grade scale of the institution, from the best grade to the last; without rows there is none.
CREATE TABLE grades (
    number bigint NOT NULL,
    grade text NOT NULL,
    passes boolean NOT NULL,
    CONSTRAINT grades_pkey PRIMARY KEY (number),
    CONSTRAINT grades_grade_key UNIQUE (grade)
);
