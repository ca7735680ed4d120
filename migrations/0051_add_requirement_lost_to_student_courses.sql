-- depends: 0050_create_requirements_in_progress_idx

-- Whether an enrolled student no longer meets a requirement of the course that a course in progress had satisfied.
ALTER TABLE student_courses ADD COLUMN requirement_lost boolean NOT NULL DEFAULT false;
