-- depends: 0037_create_equivalent_codes

-- Serves the search for courses that require a code, whose equivalents have changed. Requirements are few.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX requirements_code_idx ON requirements (lower(code), kind);
