-- This fails while a code has several sections in a term: the service before this migration can't serve them.
CREATE UNIQUE INDEX courses_term_id_code_key ON courses (lower(code), term_id);
