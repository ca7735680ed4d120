-- depends: 0060_create_imports

-- The staged rows of imports. "first_key" and "second_key" are the keys of the rows to which a row refers, "row_id" and
-- "other_id" the ids that its keys had when it was last compared: of an enrollment, those of the student and the course.
-- "action" is what the plan does with it; a refused row has a code and a sentence. "done" is true once it was applied.
CREATE TABLE import_rows (
    import_id bigint NOT NULL,
    kind text NOT NULL,
    number bigint NOT NULL,
    key text NOT NULL,
    first_key text,
    second_key text,
    removed boolean NOT NULL,
    fields json NOT NULL,
    file text NOT NULL,
    line bigint NOT NULL,
    file_column text NOT NULL,
    action text,
    code text,
    detail text,
    row_id bigint,
    other_id bigint,
    done boolean NOT NULL DEFAULT FALSE,
    CONSTRAINT import_rows_pkey PRIMARY KEY (import_id, kind, number),
    CONSTRAINT import_rows_import_id_fkey FOREIGN KEY (import_id) REFERENCES imports (id) ON DELETE CASCADE,
    CONSTRAINT import_rows_action_check CHECK (action IN ('add', 'change', 'drop', 'unchanged', 'refused'))
);

-- Serves references between the rows of an import, and the search for keys that appear twice.
CREATE INDEX import_rows_key_idx ON import_rows (import_id, kind, key, number);

-- Serves the search for rows that a file no longer lists, and the erasure of a student.
CREATE INDEX import_rows_row_id_idx ON import_rows (row_id, other_id, kind, import_id) WHERE row_id IS NOT NULL;

-- Serves the application of a plan, and its samples.
CREATE INDEX import_rows_action_idx ON import_rows (import_id, action, kind, number);
