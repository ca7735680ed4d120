-- depends: 0038_create_requirements_code_idx

-- A student whose record was merged into another one: the row in "students" is gone, and this one stays.
-- "external_id" and "names", a JSON array of the texts that named the student, are null once that other student is erased.
CREATE TABLE merged_students (
    student_id bigint NOT NULL,
    merged_into bigint NOT NULL,
    external_id text,
    names json,
    merged_at timestamptz NOT NULL,
    CONSTRAINT merged_students_pkey PRIMARY KEY (student_id),
    CONSTRAINT merged_students_merged_into_fkey FOREIGN KEY (merged_into) REFERENCES students (id)
);

CREATE INDEX merged_students_merged_into_idx ON merged_students (merged_into, student_id);

CREATE INDEX merged_students_external_id_idx ON merged_students (external_id) WHERE external_id IS NOT NULL;
