ALTER TABLE courses DROP COLUMN section;
