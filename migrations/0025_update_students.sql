-- depends: 0024_add_sourced_id_to_students

-- Gives an id to the rows from before: a digest, since Citus routes no update with a random value, nor one with a function
-- that may depend on a setting. The epoch makes it differ from those of other institutions. Enrollments go on meanwhile:
-- this lock on a student admits references to it.
UPDATE students
SET sourced_id = left(encode(sha256(('student ' || feed.epoch::text || ' ' || students.id::text)::bytea), 'hex'), 32)::uuid::text
FROM feed
WHERE sourced_id IS NULL;
