-- depends: 0033_add_section_to_courses

-- A code with its section is unique within a term, regardless of case; a course without a section has the empty one.
-- Cancelled courses do not count, and courses without a term may share both: nulls are distinct. The courses of many
-- years are indexed within a second.
-- squawk-ignore require-concurrent-index-creation
CREATE UNIQUE INDEX courses_term_id_code_section_key ON courses (lower(code), term_id, lower(coalesce(section, '')))
WHERE status <> 'cancelled';
