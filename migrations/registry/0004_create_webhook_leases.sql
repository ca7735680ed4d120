-- depends: 0003_create_api_keys

-- Which process delivers the webhooks of each institution, and until when unless it renews its lease. An institution has a row
-- while it has webhooks. "revision" grows with each change of a webhook by a caller.
CREATE TABLE webhook_leases (
    institution text NOT NULL,
    revision bigint NOT NULL,
    changed_at timestamptz NOT NULL,
    holder uuid,
    expires_at timestamptz,
    CONSTRAINT webhook_leases_pkey PRIMARY KEY (institution)
);
