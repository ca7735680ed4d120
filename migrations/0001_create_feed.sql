-- One row, which every writing transaction locks first. The last three columns identify the database to which the epoch
-- belongs: a restored, promoted or copied database differs in at least one of them.
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
