ALTER TABLE events DROP COLUMN term_id;

ALTER TABLE feed
    DROP COLUMN database_oid,
    DROP COLUMN timeline,
    DROP COLUMN system_identifier;
