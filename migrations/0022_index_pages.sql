-- depends: 0021_identify_by_transcript
-- transactional: false

-- The page of a student's courses, too, is read from the index alone.
-- A build that was killed leaves an invalid index behind, which IF NOT EXISTS would take for the real one.
DROP INDEX CONCURRENTLY IF EXISTS student_courses_page_key;

-- squawk-ignore ban-concurrent-index-creation-in-transaction
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS student_courses_page_key ON student_courses (student_id, course_id) INCLUDE (status, passed, place, joined_at, grade);
