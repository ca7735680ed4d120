ALTER TABLE student_courses
    DROP COLUMN skipped,
    DROP COLUMN swap_drops,
    DROP COLUMN override_id,
    DROP COLUMN grade,
    DROP COLUMN passed;
