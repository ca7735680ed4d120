DROP INDEX students_groups_idx;
