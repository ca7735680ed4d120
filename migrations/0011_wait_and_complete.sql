-- depends: 0010_create_overrides

-- "swap_drops" are the courses that leave when the student gets this one; "skipped" is why the last promotion passed by.
ALTER TABLE student_courses
    ADD COLUMN passed boolean,
    ADD COLUMN grade text,
    ADD COLUMN override_id bigint,
    ADD COLUMN swap_drops json,
    ADD COLUMN skipped json,
    ADD CONSTRAINT student_courses_override_id_fkey FOREIGN KEY (override_id) REFERENCES overrides (id) NOT VALID;
