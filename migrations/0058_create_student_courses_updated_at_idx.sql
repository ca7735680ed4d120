-- depends: 0057_create_students_updated_at_idx
-- transactional: false

-- squawk-ignore require-concurrent-index-deletion
DROP INDEX IF EXISTS student_courses_updated_at_idx;

-- Serves systems that ask which enrollments have changed since they asked last. Ten million are indexed within some ten
-- seconds, for which no enroll can wait.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY student_courses_updated_at_idx ON student_courses (updated_at);
