-- depends: 0047_add_reserved_group_to_student_courses

-- Whether a seat in a course of the group, in an earlier term, satisfies a prerequisite; all codes of a group agree.
ALTER TABLE requirements ADD COLUMN in_progress boolean NOT NULL DEFAULT false;
