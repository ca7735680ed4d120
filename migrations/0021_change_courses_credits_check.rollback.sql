ALTER TABLE courses DROP CONSTRAINT courses_credits_check;

ALTER TABLE courses ADD CONSTRAINT courses_credits_check
    CHECK (credits BETWEEN 0 AND 99 AND credits * 2 = trunc(credits * 2));
