-- depends: 0012_follow_the_feed

ALTER TABLE courses
    VALIDATE CONSTRAINT courses_term_id_fkey,
    VALIDATE CONSTRAINT courses_waitlist_capacity_check,
    VALIDATE CONSTRAINT courses_status_check,
    VALIDATE CONSTRAINT courses_waitlisted_check;

ALTER TABLE students VALIDATE CONSTRAINT students_max_credits_check;

ALTER TABLE student_courses VALIDATE CONSTRAINT student_courses_override_id_fkey;
