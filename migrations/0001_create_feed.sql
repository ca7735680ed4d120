-- The one row that every writing transaction locks first. The last three columns name the database for which the epoch
-- was made: a restore, a promotion and a copy differ in at least one of them.
CREATE TABLE feed (
    id smallint DEFAULT 1,
    epoch uuid NOT NULL DEFAULT gen_random_uuid(),
    system_identifier bigint,
    timeline bigint,
    database_oid bigint,
    CONSTRAINT feed_pkey PRIMARY KEY (id),
    CONSTRAINT feed_one_row_check CHECK (id = 1)
);

INSERT INTO feed DEFAULT VALUES;
