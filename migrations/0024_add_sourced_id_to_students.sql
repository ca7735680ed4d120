-- depends: 0023_create_terms_parent_id_idx

-- The default gives an id to the rows that the previous version of the service adds. It is set after the column is added:
-- a column with such a default would make PostgreSQL write the whole table anew, while nobody can read it.
ALTER TABLE students ADD COLUMN sourced_id text;

ALTER TABLE students ALTER COLUMN sourced_id SET DEFAULT gen_random_uuid()::text;
