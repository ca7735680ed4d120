-- depends: 0019_create_courses_title_search_idx

-- Serves the list of the courses of a term by code; see students_family_name_search_idx.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX courses_term_id_code_search_idx ON courses (
    term_id,
    (
        left(
            lower(
                regexp_replace(normalize(code, NFKD), '[\u0300-\u036F''\u2019]', '', 'g')
            ),
            60
        ) COLLATE "C"
    ),
    id
);
