-- transactional: false

DROP INDEX CONCURRENTLY IF EXISTS student_courses_override_id_idx;
