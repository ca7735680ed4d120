-- depends: 0028_add_preferred_name_to_students

-- Sorted, each once, without commas.
ALTER TABLE students ADD COLUMN groups text[] NOT NULL DEFAULT '{}';
