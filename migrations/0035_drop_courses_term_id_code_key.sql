-- depends: 0034_create_courses_term_id_code_section_key

-- The index on sections replaces it.
-- squawk-ignore require-concurrent-index-deletion
DROP INDEX courses_term_id_code_key;
