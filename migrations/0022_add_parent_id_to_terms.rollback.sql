ALTER TABLE terms DROP COLUMN parent_id;
