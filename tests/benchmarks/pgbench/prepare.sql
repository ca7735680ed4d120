-- Creates the sequence that enroll.sql needs; runs once in each database before enroll.sql.
CREATE SEQUENCE IF NOT EXISTS benchmark_events_position;

SELECT setval(
    'benchmark_events_position',
    greatest((SELECT max(position) FROM events), (SELECT last_value FROM benchmark_events_position))
);
