-- depends: 0049_add_in_progress_to_requirements

-- Serves a change of a seat: the courses for which it may be a prerequisite in progress. Requirements are few.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX requirements_in_progress_idx ON requirements (lower(code)) WHERE in_progress;
