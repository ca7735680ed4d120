-- depends: 0041_create_grades

-- The lowest grade with which a prerequisite must be passed; all codes of a group have the same one.
ALTER TABLE requirements ADD COLUMN min_grade text;
