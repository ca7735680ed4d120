-- depends: 0023_identify_by_page

-- A waitlisted student is unjudged where "recheck_at" is null, else blocked: judged and refused for the reasons in
-- "skipped", until then or until something of the student or the course changes. The year 9999 stands for never.
ALTER TABLE student_courses ADD COLUMN recheck_at timestamptz;

-- The version before has judged everyone beside a free seat. Nobody knows until when that holds: judge them again soon.
UPDATE student_courses
SET recheck_at = clock_timestamp()
WHERE status = 'waitlisted'
    AND skipped IS NOT NULL;
