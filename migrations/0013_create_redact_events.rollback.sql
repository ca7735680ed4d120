DROP FUNCTION redact_events;
