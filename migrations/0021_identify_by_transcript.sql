-- depends: 0020_index_transcripts

-- The index of before as the primary key, in the place of the one without the status: the guarantee is the same.
ALTER TABLE student_courses
    -- squawk-ignore ban-drop-constraint
    DROP CONSTRAINT student_courses_pkey,
    ADD CONSTRAINT student_courses_pkey PRIMARY KEY USING INDEX student_courses_transcript_key;
