ALTER TABLE students DROP COLUMN groups;
