-- depends: 0019_index_courses_of_terms
-- transactional: false

-- What a student has is read with every change: from the index alone, not from as many pages as there are courses.
-- A build that was killed leaves an invalid index behind, which IF NOT EXISTS would take for the real one.
DROP INDEX CONCURRENTLY IF EXISTS student_courses_transcript_key;

-- squawk-ignore ban-concurrent-index-creation-in-transaction
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS student_courses_transcript_key ON student_courses (student_id, course_id) INCLUDE (status, passed);
