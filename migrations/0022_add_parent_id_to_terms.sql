-- depends: 0021_change_courses_credits_check

-- The term of which a term is a part; null for a whole term. There are few terms, so that the check takes a moment.
-- squawk-ignore adding-foreign-key-constraint
ALTER TABLE terms ADD COLUMN parent_id bigint CONSTRAINT terms_parent_id_fkey REFERENCES terms (id);
