-- depends: 0046_add_reserved_taken_to_courses

-- The group whose reserved seat the student has, or null for any other seat.
ALTER TABLE student_courses ADD COLUMN reserved_group text;
