-- transactional: false

DROP INDEX CONCURRENTLY IF EXISTS events_student_id_course_id_idx;
