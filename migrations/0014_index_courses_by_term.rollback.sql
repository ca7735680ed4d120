-- transactional: false

DROP INDEX CONCURRENTLY IF EXISTS courses_term_id_code_key;
