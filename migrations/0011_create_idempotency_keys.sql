-- depends: 0010_create_api_keys

-- The answers of changes that callers sent with an Idempotency-Key. They are kept for a day, then the sweep deletes them.
-- A night without keys empties the table. VACUUM keeps its pages, or else the next plan would scan it while it grows.
-- student_ids are the students whose data the answer may hold, so that it is found when a student is erased: "1,9". As an
-- array it could not be inserted with other rows by a statement that Citus routes.
CREATE TABLE idempotency_keys (
    caller text NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    student_ids text NOT NULL,
    status bigint NOT NULL,
    headers json NOT NULL,
    body bytea NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (caller, key)
) WITH (vacuum_truncate = false);

CREATE INDEX idempotency_keys_created_at_idx ON idempotency_keys (created_at);
