-- depends: 0051_add_requirement_lost_to_student_courses

-- Serves the list of a course's students who have lost a requirement. No student has before this version, so that the
-- index is built at once.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX student_courses_requirement_lost_idx ON student_courses (course_id, student_id) WHERE requirement_lost;
