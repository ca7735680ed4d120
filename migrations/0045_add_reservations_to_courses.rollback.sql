ALTER TABLE courses DROP COLUMN reservations;
