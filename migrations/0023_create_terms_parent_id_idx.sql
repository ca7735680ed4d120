-- depends: 0022_add_parent_id_to_terms

-- Serves the look-up of the parts of a term. There are few terms, so that the index is built at once.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX terms_parent_id_idx ON terms (parent_id);
