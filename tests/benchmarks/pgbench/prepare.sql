-- What enroll.sql needs, once in each database before it runs.
CREATE SEQUENCE IF NOT EXISTS benchmark_events_position;

SELECT setval(
    'benchmark_events_position',
    greatest((SELECT max(position) FROM events), (SELECT last_value FROM benchmark_events_position))
);
