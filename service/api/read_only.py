"""Members that only the service writes: PUT and PATCH take them back as they were read."""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Final, TypeVar

from pydantic import Field
from typing_extensions import TypedDict

from service.api.fields import ExternalId, IdInBody, Input, Instant
from service.errors import Detail
from service.web.problems import Invalid, invalid

Row = TypeVar("Row")

READ_ONLY: Final = Field(
    description="Only the service writes it: send it as it was read, or leave it out.",
    json_schema_extra={"readOnly": True},
)


class ReadOnly(TypedDict, total=False):
    """The read-only members of every resource, for a merge patch."""

    id: Annotated[IdInBody, READ_ONLY]
    version: Annotated[IdInBody, READ_ONLY]
    created_at: Annotated[Instant, READ_ONLY]
    updated_at: Annotated[Instant, READ_ONLY]


class ReadOnlyFields(Input):
    """The same for a body that replaces the resource with an external id."""

    id: Annotated[IdInBody | None, READ_ONLY] = None
    external_id: Annotated[ExternalId | None, READ_ONLY] = None
    version: Annotated[IdInBody | None, READ_ONLY] = None
    created_at: Annotated[Instant | None, READ_ONLY] = None
    updated_at: Annotated[Instant | None, READ_ONLY] = None


def split(body: Mapping[str, object], read_only: Iterable[str]) -> tuple[dict[str, object], dict[str, object]]:
    """Return the members of a merge patch that callers write, and those that they only read."""
    names = body.keys() & set(read_only)
    return {name: body[name] for name in body if name not in names}, {name: body[name] for name in names}


def sent_back(body: Input, writable: type[Input], external_id: str) -> dict[str, object]:
    """Return the members of a body that callers only read; the external id must be that of the path."""
    sent = {name: getattr(body, name) for name in body.model_fields_set if name not in writable.model_fields}
    if sent.pop("external_id", external_id) != external_id:
        raise _refused(["external_id"])
    return sent


def expecting(sent: Mapping[str, object], show: Callable[[Row], object]) -> Callable[[Row | None], None] | None:
    """Return what refuses a row that has other values in these members, or that does not exist; None without members.

    ``show`` returns a row as callers see it.
    """
    if not sent:
        return None

    def check(row: Row | None) -> None:
        shown = None if row is None else show(row)
        # A resource that does not exist has no value, not even null.
        changed = [name for name in sorted(sent) if shown is None or getattr(shown, name) != sent[name]]
        if changed:
            raise _refused(changed)

    return check


def _refused(names: Iterable[str]) -> Invalid:
    sentence = "{} is read-only, and has another value: leave it out, or read it again."
    return invalid(Detail("read_only", sentence.format(name), pointer=f"#/{name}") for name in names)
