DROP INDEX students_updated_at_idx;
