-- depends: 0011_wait_and_complete

-- Which database the epoch was made for: a restore, a promotion or a copy differs in one of them.
ALTER TABLE feed
    ADD COLUMN system_identifier bigint,
    ADD COLUMN timeline bigint,
    ADD COLUMN database_oid bigint;

ALTER TABLE events ADD COLUMN term_id bigint;
