-- depends: 0058_create_student_courses_updated_at_idx

-- Serves systems that ask who has begun or ceased to teach since they asked last. The instructors of the courses of many years
-- are indexed within a second.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX course_instructors_updated_at_idx ON course_instructors (updated_at);
