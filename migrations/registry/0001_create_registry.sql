-- One row, which every change of the registry updates first: the changes of institutions have the order of revisions.
CREATE TABLE registry (
    id smallint DEFAULT 1,
    revision bigint NOT NULL DEFAULT 0,
    CONSTRAINT registry_pkey PRIMARY KEY (id),
    CONSTRAINT registry_one_row_check CHECK (id = 1)
);

INSERT INTO registry DEFAULT VALUES;
