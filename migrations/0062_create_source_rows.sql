-- depends: 0061_create_import_rows

-- Which rows the files of a source have listed, by the keys that they have there. Only these may be dropped because a file
-- of the source does not list them. "row_id" and "other_id" are as in import_rows; "other_id" is 0 for other kinds than
-- enrollments and teachings.
CREATE TABLE source_rows (
    source text NOT NULL,
    kind text NOT NULL,
    key text NOT NULL,
    row_id bigint NOT NULL,
    other_id bigint NOT NULL,
    CONSTRAINT source_rows_pkey PRIMARY KEY (source, kind, key)
);

-- Serves the question whether another source lists a row, and the erasure of a student.
CREATE INDEX source_rows_row_id_idx ON source_rows (row_id, other_id, kind);
