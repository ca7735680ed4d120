-- depends: 0029_add_groups_to_students

-- A student has at least one of the two names, and perhaps no e-mail address. The previous version of the service can list
-- such students, but not edit them.
-- squawk-ignore ban-drop-not-null
ALTER TABLE students ALTER COLUMN given_name DROP NOT NULL;

-- squawk-ignore ban-drop-not-null
ALTER TABLE students ALTER COLUMN family_name DROP NOT NULL;

-- squawk-ignore ban-drop-not-null
ALTER TABLE students ALTER COLUMN email DROP NOT NULL;

-- squawk-ignore constraint-missing-not-valid
ALTER TABLE students ADD CONSTRAINT students_name_check CHECK (given_name IS NOT NULL OR family_name IS NOT NULL);
