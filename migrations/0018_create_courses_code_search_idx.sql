-- depends: 0017_create_students_given_name_search_idx

-- Serves the search for codes and the list by code; see students_family_name_search_idx.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX courses_code_search_idx ON courses (
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
