-- depends: 0022_index_pages

-- The index of before as the primary key, in the place of the one for transcripts alone: the guarantee is the same.
ALTER TABLE student_courses
    -- squawk-ignore ban-drop-constraint
    DROP CONSTRAINT student_courses_pkey,
    ADD CONSTRAINT student_courses_pkey PRIMARY KEY USING INDEX student_courses_page_key;
