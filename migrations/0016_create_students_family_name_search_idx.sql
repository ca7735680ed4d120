-- depends: 0015_create_refusals

-- Serves the search for names and the list by name. The key has neither case, accents nor apostrophes: NFKD splits an
-- accented letter into the letter and its mark. It is cut, because a row of an index has at most 2,704 bytes. The "C"
-- collation lets a range of the index hold exactly the keys that begin with a text. The lock delays only changes of
-- students, for some seconds; an index that is built concurrently would wait for every older transaction, such as that
-- of a backup.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX students_family_name_search_idx ON students (
    (
        left(
            lower(
                regexp_replace(normalize(coalesce(family_name || ' ', '') || coalesce(given_name, ''), NFKD), '[\u0300-\u036F''\u2019]', '', 'g')
            ),
            60
        ) COLLATE "C"
    ),
    id
);
