ALTER TABLE courses
    DROP COLUMN waitlisted,
    DROP COLUMN status,
    DROP COLUMN meetings,
    DROP COLUMN waitlist_capacity,
    DROP COLUMN term_id;
