-- depends: 0016_create_students_family_name_search_idx

-- Serves the search for names that begin with the given name; see students_family_name_search_idx.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX students_given_name_search_idx ON students (
    (
        left(
            lower(
                regexp_replace(normalize(coalesce(given_name || ' ', '') || coalesce(family_name, ''), NFKD), '[\u0300-\u036F''\u2019]', '', 'g')
            ),
            60
        ) COLLATE "C"
    ),
    id
);
