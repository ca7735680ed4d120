-- depends: 0015_create_refusals

ALTER TABLE courses ADD COLUMN section text;
