-- transactional: false
-- depends: 0057_create_students_updated_at_idx

DROP INDEX IF EXISTS student_courses_updated_at_idx;

-- Serves systems that ask which enrollments have changed since they asked last.
CREATE INDEX CONCURRENTLY student_courses_updated_at_idx ON student_courses (updated_at);
