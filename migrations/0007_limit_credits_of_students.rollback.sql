ALTER TABLE students DROP COLUMN max_credits;
