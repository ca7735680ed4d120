-- depends: 0013_create_redact_events

-- Serves the erasure of a student, which deletes the answers that may hold data of the student. The table holds a day of
-- answers, so that the index is built within seconds.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX idempotency_keys_student_ids_idx ON idempotency_keys USING gin (string_to_array(student_ids, ','));
