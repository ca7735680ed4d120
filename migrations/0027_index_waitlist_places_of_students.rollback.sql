-- transactional: false

DROP INDEX CONCURRENTLY IF EXISTS student_courses_waitlisted_idx;
