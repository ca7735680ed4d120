ALTER TABLE requirements DROP COLUMN in_progress;
