-- depends: 0011_create_idempotency_keys

-- The role of the service may lock the row of the feed, and changes it only by this function. Returns null, and changes
-- nothing, if another epoch than "old_epoch" has begun. The names in its body are bound to tables and functions when it is
-- created, so that the search_path of a caller has no effect.
CREATE FUNCTION renew_epoch(
    old_epoch uuid, new_epoch uuid, new_system_identifier bigint, new_timeline bigint, new_database_oid bigint
)
RETURNS uuid
LANGUAGE sql
SECURITY DEFINER
BEGIN ATOMIC
    UPDATE feed
    SET
        epoch = new_epoch,
        system_identifier = new_system_identifier,
        timeline = new_timeline,
        database_oid = new_database_oid
    WHERE epoch = old_epoch
    RETURNING epoch;
END;

REVOKE EXECUTE ON FUNCTION renew_epoch FROM PUBLIC;
