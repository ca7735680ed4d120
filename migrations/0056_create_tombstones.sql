-- depends: 0055_create_webhook_leases

-- What was deleted, so that other systems learn of it: a student, an instructor, a course or a term.
-- "sourced_id" is that of a person.
CREATE TABLE tombstones (
    resource text NOT NULL,
    id bigint NOT NULL,
    sourced_id text,
    deleted_at timestamptz NOT NULL,
    CONSTRAINT tombstones_pkey PRIMARY KEY (resource, id),
    CONSTRAINT tombstones_resource_check CHECK (resource IN ('course', 'instructor', 'student', 'term'))
);

-- Serves the list of users, in the order of their sourced ids.
CREATE INDEX tombstones_sourced_id_idx ON tombstones (sourced_id) WHERE sourced_id IS NOT NULL;

-- Serves the sweep, which deletes the oldest rows.
CREATE INDEX tombstones_deleted_at_idx ON tombstones (deleted_at);
