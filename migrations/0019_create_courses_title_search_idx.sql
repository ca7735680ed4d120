-- depends: 0018_create_courses_code_search_idx

-- Serves the search for titles; see students_family_name_search_idx.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX courses_title_search_idx ON courses (
    (
        left(
            lower(
                regexp_replace(normalize(title, NFKD), '[\u0300-\u036F''\u2019]', '', 'g')
            ),
            60
        ) COLLATE "C"
    ),
    id
);
