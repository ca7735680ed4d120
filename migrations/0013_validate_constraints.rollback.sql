ALTER TABLE student_courses
    DROP CONSTRAINT student_courses_override_id_fkey,
    ADD CONSTRAINT student_courses_override_id_fkey FOREIGN KEY (override_id) REFERENCES overrides (id) NOT VALID;

ALTER TABLE students
    DROP CONSTRAINT students_max_credits_check,
    ADD CONSTRAINT students_max_credits_check CHECK (max_credits BETWEEN 0 AND 999) NOT VALID;

ALTER TABLE courses
    DROP CONSTRAINT courses_term_id_fkey,
    DROP CONSTRAINT courses_waitlist_capacity_check,
    DROP CONSTRAINT courses_status_check,
    DROP CONSTRAINT courses_waitlisted_check,
    ADD CONSTRAINT courses_term_id_fkey FOREIGN KEY (term_id) REFERENCES terms (id) NOT VALID,
    ADD CONSTRAINT courses_waitlist_capacity_check CHECK (waitlist_capacity >= 0) NOT VALID,
    ADD CONSTRAINT courses_status_check CHECK (status IN ('open', 'cancelled')) NOT VALID,
    ADD CONSTRAINT courses_waitlisted_check CHECK (waitlisted >= 0) NOT VALID;
