-- transactional: false

DROP INDEX CONCURRENTLY IF EXISTS courses_waitlisted_idx;
