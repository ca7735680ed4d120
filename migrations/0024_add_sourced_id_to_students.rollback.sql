ALTER TABLE students DROP COLUMN sourced_id;
