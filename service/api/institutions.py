"""Institutions over HTTP: the schemas that one service serves, each with its own students, courses and feed."""

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal, TypeAlias, cast

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from service.api.answers import CreatedAt, Id
from service.api.fields import Input, Name
from service.api.keys import AUTHENTICATOR, REGISTRY
from service.errors import (
    InstitutionNameTaken,
    InstitutionNotFound,
    InstitutionNotSuspended,
    InstitutionSchemaTaken,
    RegistryMissing,
    Unavailable,
)
from service.fitness import UnfitDatabase
from service.migrate import DatabaseUnavailable, MigrationFailed
from service.registry import INSTITUTION_NAME
from service.settings import zone_of
from service.web.endpoint import Call, Reply, endpoint
from service.web.paging import Page, Paging, decode_cursor, page_of
from service.web.schema import named
from service.web.validation import wrong
from sql import registry as sql

logger = logging.getLogger(__name__)

State: TypeAlias = Literal["creating", "active", "read_only", "suspended", "dropping"]
NewState: TypeAlias = Literal["active", "read_only", "suspended"]

STATES: Final = """\
* `creating`: its schema is being made.
* `active`: it accepts all calls.
* `read_only`: it refuses changes.
* `suspended`: it refuses all calls.
* `dropping`: its schema is being deleted."""


def _valid_name(name: str) -> str:
    if not INSTITUTION_NAME.fullmatch(name):
        sentence = "{field} must be up to 50 lower-case letters, digits and hyphens, and begin with a letter."
        raise wrong("invalid_name", sentence)
    return name


InstitutionName: TypeAlias = Annotated[
    str,
    AfterValidator(_valid_name),
    Field(
        description="Lower-case letters, digits and hyphens; it begins with a letter. Part of the text of its keys.",
        json_schema_extra={"pattern": f"^{INSTITUTION_NAME.pattern}$"},
    ),
]


def _known_zone(name: str) -> str:
    try:
        zone_of(name)
    except (ValueError, OSError, KeyError) as error:
        raise wrong(
            "unknown_time_zone", "{field} must be the IANA name of a time zone, such as Europe/Berlin."
        ) from error
    return name


TimeZone: TypeAlias = Annotated[
    str,
    StringConstraints(min_length=1, max_length=100),
    AfterValidator(_known_zone),
    Field(description="IANA name of its time zone; a term ends at midnight after its last day."),
]


class NewInstitution(Input):
    """An institution to create."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "north-college", "display_name": "North College", "time_zone": "Europe/Berlin"}]
        }
    )

    name: InstitutionName
    display_name: Annotated[Name, Field(description="Its full name.")]
    time_zone: TimeZone = "UTC"


class InstitutionChanges(Input):
    """What to change of an institution; a field that is left out stays as it is."""

    display_name: Annotated[Name | None, Field(description="Its full name.")] = None
    time_zone: TimeZone | None = None
    state: Annotated[NewState | None, named("NewInstitutionState", STATES)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Institution:
    """An institution."""

    id: Id
    name: InstitutionName
    display_name: Annotated[str, Field(description="Its full name.")]
    time_zone: TimeZone
    state: Annotated[State, named("InstitutionState", STATES)]
    schema_name: Annotated[str, Field(description="The schema of the database with its data.")]
    migration: Annotated[
        str | None, Field(description="The newest migration of its schema; null while the schema is being made.")
    ]
    created_at: CreatedAt
    changed_at: Annotated[datetime, Field(description="When the institution, not its data, was last changed.")]


def _shown(row: sql.Institution) -> Institution:
    return Institution(
        id=row.id,
        name=row.name,
        display_name=row.display_name,
        time_zone=row.time_zone,
        state=cast(State, row.state),
        schema_name=row.schema_name,
        migration=row.migration,
        created_at=row.created_at,
        changed_at=row.changed_at,
    )


def _log(message: str, row: sql.Institution, call: Call) -> None:
    extra = {"institution": row.name, "state": row.state, "actor": call.caller.name, "request_id": call.request_id}
    logger.info(message, extra=extra)


@endpoint(
    "POST",
    "/institutions",
    scope="admin",
    within="registry",
    status=201,
    problems=[InstitutionNameTaken, InstitutionSchemaTaken, RegistryMissing],
)
async def create_institution(call: Call, body: NewInstitution) -> Reply[Institution]:
    """Create an institution with a schema of its own.

    It takes a second or two to make the schema. A call that is interrupted can be repeated. The role of the service must
    have the right to create schemas; otherwise use `python -m service institutions create` as the owner.
    """
    try:
        row = await call[REGISTRY].create(body.name, body.display_name, body.time_zone)
    except (DatabaseUnavailable, MigrationFailed, UnfitDatabase) as error:
        logger.exception("an institution could not be created", extra={"institution": body.name})
        raise Unavailable("The schema of the institution could not be made; try again.") from error
    _log("an institution was created", row, call)
    return Reply(_shown(row), 201, {"Location": f"/institutions/{row.name}"})


@endpoint("GET", "/institutions", scope="admin", within="registry", problems=[RegistryMissing])
async def list_institutions(call: Call, query: Paging) -> Page[Institution]:
    """List the institutions by id.

    Institutions that were dropped are not listed.
    """
    after = decode_cursor(query.cursor, "institutions")
    rows = await call[REGISTRY].list(after, query.limit + 1)
    return page_of([_shown(row) for row in rows], query.limit, "institutions", lambda each: each.id)


@endpoint(
    "GET",
    "/institutions/{institution}",
    scope="admin",
    within="registry",
    problems=[InstitutionNotFound, RegistryMissing],
)
async def read_institution(call: Call, institution: InstitutionName) -> Institution:
    """Read an institution.

    The state is that of the database; processes of the service notice a change within a second or so.
    """
    return _shown(await call[REGISTRY].get(institution))


@endpoint(
    "PATCH",
    "/institutions/{institution}",
    scope="admin",
    within="registry",
    problems=[InstitutionNotFound, RegistryMissing],
)
async def edit_institution(call: Call, institution: InstitutionName, body: InstitutionChanges) -> Institution:
    """Change an institution: suspend or resume it, make it read-only, or change its name or time zone.

    Other processes of the service notice within a second or so.
    """
    row = await call[REGISTRY].change(
        institution, state=body.state, display_name=body.display_name, time_zone=body.time_zone
    )
    _log("an institution was changed", row, call)
    return _shown(row)


@endpoint(
    "DELETE",
    "/institutions/{institution}",
    scope="admin",
    within="registry",
    status=204,
    problems=[InstitutionNotFound, InstitutionNotSuspended, RegistryMissing],
)
async def drop_institution(call: Call, institution: InstitutionName) -> None:
    """Delete an institution with all its data.

    It must have been suspended for five seconds, so that no process serves it any more.
    """
    try:
        row = await call[REGISTRY].drop(institution)
    except (DatabaseUnavailable, UnfitDatabase) as error:
        raise Unavailable("The schema of the institution could not be deleted; try again.") from error
    call[AUTHENTICATOR].drop(institution)
    _log("an institution was dropped", row, call)
