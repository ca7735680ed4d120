-- transactional: false
-- depends: 0058_create_student_courses_updated_at_idx

DROP INDEX IF EXISTS course_instructors_updated_at_idx;

-- Serves systems that ask who has begun or ceased to teach since they asked last.
CREATE INDEX CONCURRENTLY course_instructors_updated_at_idx ON course_instructors (updated_at);
