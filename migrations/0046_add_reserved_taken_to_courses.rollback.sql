ALTER TABLE courses DROP COLUMN reserved_taken;
