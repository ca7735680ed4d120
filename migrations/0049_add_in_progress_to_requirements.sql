-- depends: 0048_create_students_preferred_name_search_idx

-- Whether a seat in a course of the group, in an earlier term, satisfies a prerequisite; all codes of a group agree.
ALTER TABLE requirements ADD COLUMN in_progress boolean NOT NULL DEFAULT false;
