"""Read-only members: PUT and PATCH accept them if they have the stored values."""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Final, TypeVar

from pydantic import Field
from typing_extensions import TypedDict

from service.api.fields import ExternalId, IdInBody, Input, Instant
from service.errors import Detail
from service.registrar.resources import GIVEN_ONCE
from service.web.problems import Invalid, invalid

Row = TypeVar("Row")

READ_ONLY: Final = Field(
    description="Read-only: send the value that you read, or leave it out.",
    json_schema_extra={"readOnly": True},
)


class ReadOnly(TypedDict, total=False):
    """The read-only members of every resource, for a merge patch."""

    id: Annotated[IdInBody, READ_ONLY]
    version: Annotated[IdInBody, READ_ONLY]
    created_at: Annotated[Instant, READ_ONLY]
    updated_at: Annotated[Instant, READ_ONLY]


class ReadOnlyFields(Input):
    """The read-only members of every resource, for a body that replaces the resource with an external id."""

    id: Annotated[IdInBody | None, READ_ONLY] = None
    external_id: Annotated[ExternalId | None, READ_ONLY] = None
    version: Annotated[IdInBody | None, READ_ONLY] = None
    created_at: Annotated[Instant | None, READ_ONLY] = None
    updated_at: Annotated[Instant | None, READ_ONLY] = None


def split(body: Mapping[str, object], read_only: Iterable[str]) -> tuple[dict[str, object], dict[str, object]]:
    """Split a merge patch into its writable and its read-only members."""
    names = body.keys() & set(read_only)
    return {name: body[name] for name in body if name not in names}, {name: body[name] for name in names}


def sent_back(body: Input, writable: type[Input], external_id: str) -> dict[str, object]:
    """Return the read-only members of a body; refuse an external id that differs from the path."""
    sent = {name: getattr(body, name) for name in body.model_fields_set if name not in writable.model_fields}
    if sent.pop("external_id", external_id) != external_id:
        raise _refused(["external_id"])
    return sent


def expecting(sent: Mapping[str, object], show: Callable[[Row], object]) -> Callable[[Row | None], None] | None:
    """Return a check that refuses a row with other values of these members, or no row; return None without members.

    A new row may have the members that are given once. ``show`` converts a row to the form that the API returns.
    """
    sent = {name: value for name, value in sent.items() if value is not None or name not in GIVEN_ONCE}
    if not sent:
        return None

    def check(row: Row | None) -> None:
        shown = None if row is None else show(row)
        # A resource that does not exist has no values, so that even null differs.
        changed = [
            name
            for name in sorted(sent)
            if (name not in GIVEN_ONCE if shown is None else getattr(shown, name) != sent[name])
        ]
        if changed:
            raise _refused(changed)

    return check


def _refused(names: Iterable[str]) -> Invalid:
    sentence = "{} is read-only, and the stored value is different: leave it out, or read the resource again."
    return invalid(Detail("read_only", sentence.format(name), pointer=f"#/{name}") for name in names)
