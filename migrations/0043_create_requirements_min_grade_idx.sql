-- depends: 0042_add_min_grade_to_requirements

-- Serves a change of the grade scale: the courses that require a grade. Requirements are few.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX requirements_min_grade_idx ON requirements (course_id) WHERE min_grade IS NOT NULL;
