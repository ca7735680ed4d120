ALTER TABLE students DROP COLUMN preferred_name;
