-- transactional: false

DROP INDEX CONCURRENTLY IF EXISTS student_courses_unjudged_idx;
