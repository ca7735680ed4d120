-- depends: 0020_create_courses_term_id_code_search_idx

-- Credits have two decimals. The table has one row for each course, so that the check of its rows takes a moment.
-- squawk-ignore ban-drop-constraint
ALTER TABLE courses DROP CONSTRAINT courses_credits_check;

-- squawk-ignore constraint-missing-not-valid
ALTER TABLE courses ADD CONSTRAINT courses_credits_check
    CHECK (credits BETWEEN 0 AND 99 AND credits = round(credits::numeric, 2)::double precision);
