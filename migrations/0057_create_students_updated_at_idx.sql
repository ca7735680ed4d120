-- depends: 0056_create_tombstones

-- Serves systems that ask which users have changed since they asked last. The lock delays only changes of students; a million
-- of them are indexed within about a second.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX students_updated_at_idx ON students (updated_at);
