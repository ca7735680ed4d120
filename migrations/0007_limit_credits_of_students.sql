-- depends: 0006_place_courses_in_terms

ALTER TABLE students
    ADD COLUMN max_credits double precision,
    ADD CONSTRAINT students_max_credits_check CHECK (max_credits BETWEEN 0 AND 999) NOT VALID;
