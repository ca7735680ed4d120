-- depends: 0045_add_reservations_to_courses

-- How many students have a reserved seat, by group.
ALTER TABLE courses ADD COLUMN reserved_taken json;
