-- depends: 0020_create_courses_term_id_code_search_idx

ALTER TABLE courses ADD COLUMN section text;
