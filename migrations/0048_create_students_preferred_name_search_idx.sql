-- depends: 0047_add_reserved_group_to_student_courses

-- Serves the search for names that begin with the preferred name, which few students have; see
-- students_family_name_search_idx.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX students_preferred_name_search_idx ON students (
    (
        left(
            lower(
                regexp_replace(normalize(preferred_name || coalesce(' ' || family_name, ''), NFKD), '[\u0300-\u036F''\u2019]', '', 'g')
            ),
            60
        ) COLLATE "C"
    ),
    id
) WHERE preferred_name IS NOT NULL;
