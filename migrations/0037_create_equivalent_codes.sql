-- depends: 0036_create_equivalences

CREATE TABLE equivalent_codes (
    equivalence_id bigint NOT NULL,
    code text NOT NULL,
    CONSTRAINT equivalent_codes_pkey PRIMARY KEY (equivalence_id, code),
    CONSTRAINT equivalent_codes_equivalence_id_fkey FOREIGN KEY (equivalence_id) REFERENCES equivalences (id)
        ON DELETE CASCADE
);

-- A code is in at most one set, regardless of case.
CREATE UNIQUE INDEX equivalent_codes_code_key ON equivalent_codes (lower(code));
