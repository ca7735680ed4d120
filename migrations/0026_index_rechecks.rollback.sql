-- transactional: false

DROP INDEX CONCURRENTLY IF EXISTS student_courses_recheck_at_idx;
