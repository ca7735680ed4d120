-- depends: 0054_create_webhook_attempts

-- Which process delivers the webhooks of this institution, whose name is empty here, and until when unless it renews its lease.
-- There is a row while there are webhooks. "revision" grows with each change of a webhook by a caller. With a registry, the
-- table of the registry is used instead, so that one statement finds the work of all institutions.
CREATE TABLE webhook_leases (
    institution text NOT NULL,
    revision bigint NOT NULL,
    changed_at timestamptz NOT NULL,
    holder uuid,
    expires_at timestamptz,
    CONSTRAINT webhook_leases_pkey PRIMARY KEY (institution)
);
