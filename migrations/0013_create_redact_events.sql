-- depends: 0012_create_renew_epoch

-- Events are never updated, with this exception: when students are erased, the free text of their events is replaced.
-- Types, times, states, ids of requests and the order stay as they are. The events of the erasures themselves keep their
-- reasons. Returns the positions of the events that were changed.
-- "names" are the texts that name the students, such as external ids; an actor with such a name gets a pseudonym.
-- In the compact JSON of a state, "author": can't be part of a string, where quotation marks are escaped.
CREATE FUNCTION redact_events(student_ids bigint[], names text[])
RETURNS SETOF bigint
LANGUAGE sql
SECURITY DEFINER
BEGIN ATOMIC
    UPDATE events
    SET
        actor = CASE WHEN actor = ANY(names) THEN 'erased-' || student_id ELSE actor END,
        on_behalf_of = CASE WHEN on_behalf_of IS NOT NULL THEN 'erased' END,
        reason = CASE WHEN reason IS NOT NULL THEN 'erased' END,
        before = CASE
            WHEN type LIKE 'override.%'
                THEN regexp_replace(before::text, '"author":"([^"\\]|\\.)*"', '"author":"erased"')::json
            ELSE before
        END,
        after = CASE
            WHEN type LIKE 'override.%'
                THEN regexp_replace(after::text, '"author":"([^"\\]|\\.)*"', '"author":"erased"')::json
            ELSE after
        END
    WHERE student_id = ANY(student_ids)
        AND type <> 'student.erased'
        AND (
            on_behalf_of <> 'erased'
            OR reason <> 'erased'
            OR (actor = ANY(names) AND actor <> 'erased-' || student_id)
            OR (type LIKE 'override.%' AND (before ->> 'author' <> 'erased' OR after ->> 'author' <> 'erased'))
        )
    RETURNING position;
END;

REVOKE EXECUTE ON FUNCTION redact_events FROM PUBLIC;
