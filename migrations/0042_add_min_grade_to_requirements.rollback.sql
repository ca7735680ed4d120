ALTER TABLE requirements DROP COLUMN min_grade;
