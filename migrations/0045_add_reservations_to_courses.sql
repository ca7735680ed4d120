-- depends: 0044_create_students_groups_idx

-- The reserved seats: an array, or null for a course that never had any.
ALTER TABLE courses ADD COLUMN reservations json;
