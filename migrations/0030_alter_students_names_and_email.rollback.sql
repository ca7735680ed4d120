ALTER TABLE students DROP CONSTRAINT students_name_check;

-- The previous version of the service requires all three.
UPDATE students
SET
    given_name = coalesce(given_name, '-'),
    family_name = coalesce(family_name, '-'),
    email = coalesce(email, 'student-' || id || '@missing.invalid')
WHERE given_name IS NULL OR family_name IS NULL OR email IS NULL;

ALTER TABLE students ALTER COLUMN given_name SET NOT NULL;

ALTER TABLE students ALTER COLUMN family_name SET NOT NULL;

ALTER TABLE students ALTER COLUMN email SET NOT NULL;
