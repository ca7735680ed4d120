"""API keys over HTTP: what lets a program call the service."""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Annotated, TypeAlias, cast

from pydantic import ConfigDict, Field

from service.api.answers import CreatedAt, Id
from service.api.fields import IdInPath, Input, Instant, Name, Whole
from service.api.keys import AUTHENTICATOR, DATABASE
from service.auth import api_keys
from service.errors import ApiKeyNameTaken, ApiKeyNotFound, ApiKeyRevoked
from service.web.auth import SCOPE_DESCRIPTIONS, SCOPES, Scope
from service.web.endpoint import Call, Reply, endpoint
from service.web.paging import Page, Paging, decode_cursor, page_of
from service.web.schema import named
from sql import api_keys as sql

DAY_SECONDS = 24 * 60 * 60

GivenScope: TypeAlias = Annotated[
    Scope, named("Scope", "\n".join(f"* `{scope}`: {SCOPE_DESCRIPTIONS[scope]}" for scope in SCOPES))
]


class NewApiKey(Input):
    """An API key to create."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "portal", "scopes": ["read", "enroll"]}]})

    name: Annotated[
        Name, Field(description="Whose key it is. Unique, also among revoked keys: events record it as `actor`.")
    ]
    scopes: Annotated[
        tuple[GivenScope, ...],
        Field(min_length=1, max_length=len(SCOPES), strict=False, description="What its holder may do."),
    ]
    expires_at: Annotated[Instant | None, Field(description="From when on it is refused; null: never.")] = None


class Rotation(Input):
    """How to rotate an API key."""

    overlap_seconds: Annotated[
        int, Field(ge=0, le=30 * DAY_SECONDS, description="For how long the secret before stays valid."), Whole
    ] = DAY_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """An API key, without its text."""

    id: Id
    name: Annotated[str, Field(description="Whose key it is.")]
    scopes: Annotated[list[GivenScope], Field(description="What its holder may do.")]
    created_at: CreatedAt
    expires_at: Annotated[datetime | None, Field(description="From when on it is refused; null: never.")]
    revoked_at: Annotated[datetime | None, Field(description="When it was revoked; null if it is not.")]
    last_used_at: Annotated[datetime | None, Field(description="When it was last used, to the minute; null: never.")]
    previous_until: Annotated[
        datetime | None, Field(description="Until when the secret before the last rotation is valid; null without one.")
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedApiKey(ApiKey):
    """An API key with its text."""

    key: Annotated[str, Field(description="Send it as `Authorization: Bearer KEY`. It is shown in this answer only.")]


def _shown(row: sql.ApiKey) -> ApiKey:
    """Show a row as callers see it."""
    return ApiKey(
        id=row.id,
        name=row.name,
        scopes=cast("list[Scope]", row.scopes),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
        previous_until=row.previous_until,
    )


def _issued(row: sql.ApiKey, text: str) -> IssuedApiKey:
    return IssuedApiKey(**asdict(_shown(row)), key=text)


@endpoint("POST", "/keys", scope="admin", within="either", status=201, problems=[ApiKeyNameTaken])
async def create_api_key(call: Call, body: NewApiKey) -> Reply[IssuedApiKey]:
    """Create an API key.

    Its text is shown in this answer only: the service keeps a hash of it.
    """
    async with call[DATABASE].writing() as connection:
        row, text = await api_keys.create(connection, body.name, list(dict.fromkeys(body.scopes)), body.expires_at)
    call[AUTHENTICATOR].forget(call.caller.institution)
    return Reply(_issued(row, text), 201)


@endpoint("GET", "/keys", scope="admin", within="either")
async def list_api_keys(call: Call, query: Paging) -> Page[ApiKey]:
    """List the API keys by id, including those that are expired or revoked.

    The list does not show the texts of the keys.
    """
    after = decode_cursor(query.cursor, "keys")
    async with call[DATABASE].reading() as connection:
        rows = await sql.list_api_keys(connection, after, query.limit + 1)
    return page_of([_shown(row) for row in rows], query.limit, "keys", lambda key: key.id)


@endpoint(
    "POST",
    "/keys/{key_id}/rotate",
    scope="admin",
    within="either",
    problems=[ApiKeyNotFound, ApiKeyRevoked],
    final=True,
)
async def rotate_api_key(call: Call, key_id: IdInPath, body: Rotation) -> IssuedApiKey:
    """Give an API key a new secret.

    The secret before it stays valid for a day, or as long as the call says, so that its holder can change over.
    """
    async with call[DATABASE].writing() as connection:
        row, text = await api_keys.rotate(connection, key_id, timedelta(seconds=body.overlap_seconds))
    call[AUTHENTICATOR].forget(call.caller.institution)
    return _issued(row, text)


@endpoint("DELETE", "/keys/{key_id}", scope="admin", within="either", problems=[ApiKeyNotFound])
async def revoke_api_key(call: Call, key_id: IdInPath) -> ApiKey:
    """Revoke an API key.

    It is refused a few seconds later at most, and stays listed. Revoking it again changes nothing.
    """
    async with call[DATABASE].writing() as connection:
        row = await api_keys.revoke(connection, key_id)
    call[AUTHENTICATOR].forget(call.caller.institution)
    return _shown(row)
