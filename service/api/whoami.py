"""Who calls, and what the caller may do."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from service.api.answers import Int64
from service.api.api_keys import GivenScope
from service.web.auth import SCOPES
from service.web.endpoint import Call, endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Whoami:
    """The caller of the request, as the service authenticated it."""

    name: Annotated[
        str | None,
        Field(description="The `actor` in the events of the caller's changes; null if nobody is authenticated."),
    ]
    scopes: Annotated[
        list[GivenScope], Field(description="What the caller may do. Each call names the scope that it requires.")
    ]
    student_id: Annotated[
        int | None,
        Field(description="The student of the scope `self`; null without it.", json_schema_extra=Int64),
    ]
    institution: Annotated[
        str | None,
        Field(
            description="The caller's institution; null if the service has only one, or for a caller of the registry."
        ),
    ]


@endpoint("GET", "/whoami", scope="any", within="either")
async def read_whoami(call: Call) -> Whoami:
    """Read who the service takes the caller for, and what the caller may do.

    Programs use it to check a key, and to offer people only what they may do. A service without keys and without a
    provider is open: its callers have every scope, and no name.
    """
    caller = call.caller
    scopes = [scope for scope in SCOPES if scope in caller.scopes]
    return Whoami(name=caller.name, scopes=scopes, student_id=caller.student_id, institution=caller.institution)
