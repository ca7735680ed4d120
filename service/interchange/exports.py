"""Exports over HTTP: asking for one, and downloading its file."""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, TypeAlias

from aiohttp import web
from pydantic import Field

from service.api.answers import Id
from service.api.fields import MAX_BIGINT, IdInPath, Input, Whole
from service.api.keys import DATABASE
from service.errors import Detail, ExportNotFound, NoFile
from service.interchange.formats.writing import DELTA_FORMATS, ExportFormat
from service.interchange.worker import WORKER
from service.web.endpoint import Call, Reply, endpoint
from service.web.problems import invalid
from service.web.schema import named
from sql import exports as sql
from sql.exports import ExportState

ZIP: Final = "application/zip"

Position: TypeAlias = Annotated[int, Field(ge=0, le=MAX_BIGINT), Whole]
NamedFormat: TypeAlias = Annotated[
    ExportFormat,
    named(
        "ExportFormat",
        "`plain`: CSV as imports take it. `ndjson`: a JSON object in each line, as the API has them. `canvas`: the SIS files "
        "of Canvas. `oneroster-1.1` and `oneroster-1.2`: OneRoster CSV.",
    ),
]


class NewExport(Input):
    """An export to write."""

    format: NamedFormat
    after: Annotated[
        Position | None,
        Field(
            description="For OneRoster: only what has changed after this position of the feed, such as the `position` of an "
            "earlier export. Requires the scope `events`. Null is everything."
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileExport:
    """An export: a zip of files with everything, or with what has changed."""

    id: Id
    format: NamedFormat
    state: Annotated[
        ExportState,
        named(
            "ExportState",
            "`queued` and `writing`: its file is not complete. `done`: it has a file. `failed`: see `problem`. `expired`: its "
            "file was taken back, because a student was erased.",
        ),
    ]
    after: Annotated[int | None, Field(description="The position after which a delta begins; null for everything.")]
    position: Annotated[
        int | None, Field(description="The position of the newest event that it contains; null until it is done.")
    ]
    size: Annotated[int | None, Field(description="The size of the file in bytes; null until it is done.")]
    records: Annotated[int, Field(description="The records that are written.")]
    problem: Annotated[str | None, Field(description="Why the export failed; null if it did not.")]
    actor: Annotated[str | None, Field(description="Who asked for it; null if nobody was authenticated.")]
    created_at: Annotated[datetime, Field(description="When it was asked for.")]
    updated_at: Annotated[datetime, Field(description="When it last went on.")]


def export_of(row: sql.Export) -> FileExport:
    """Convert a row to the export that the API returns."""
    return FileExport(
        id=row.id,
        format=row.format,  # type: ignore[arg-type]  # The statements return it as text.
        state=row.state,
        after=row.after,
        position=row.position,
        size=row.size,
        records=row.rows_done,
        problem=row.problem,
        actor=row.actor,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


async def find_export(call: Call, export_id: int) -> sql.Export:
    """Return an export.

    Raises:
        ExportNotFound: there is none with this id.
    """
    async with call[DATABASE].reading() as connection:
        found = await sql.get_export(connection, export_id)
    if found is None:
        raise ExportNotFound(export_id)
    return found


@endpoint("POST", "/exports", scope="read", status=202, keyed=False)
async def create_export(call: Call, body: NewExport) -> Reply[FileExport]:
    """Write an export in the background: one moment of all terms, courses, people and enrollments, as a zip.

    Exports are written one after the other. An operator sets for how many hours their files are kept.
    """
    if body.after is not None:
        call.require("events")
        if body.format not in DELTA_FORMATS:
            sentence = f"after is possible only with the formats {' and '.join(sorted(DELTA_FORMATS))}."
            raise invalid([Detail("not_combinable", sentence, pointer="#/after")])
    async with call[DATABASE].reading(for_changes=True) as connection:
        [added] = await sql.add_export(connection, body.format, body.after, call.caller.name)
    call[WORKER].exports.wake()
    return Reply(export_of(added), 202, {"Location": f"/exports/{added.id}"})


@endpoint("GET", "/exports/{export_id}", scope="read", problems=[ExportNotFound], routine=True)
async def read_export(call: Call, export_id: IdInPath) -> FileExport:
    """Read an export: its state and, once it is done, the size of its file.

    Ask once a second until it is done.
    """
    return export_of(await find_export(call, export_id))


@endpoint(
    "GET",
    "/exports/{export_id}/file",
    scope="read",
    status=(200, 206),
    problems=[ExportNotFound, NoFile],
    downloads=(ZIP,),
)
async def read_export_file(call: Call, export_id: IdInPath) -> web.StreamResponse:
    """Download the file of an export, or a range of it (RFC 9110 section 14).

    A download that breaks off continues with `Range: bytes=N-`.
    """
    found = await find_export(call, export_id)
    if found.state != "done" or found.path is None or not await asyncio.to_thread(Path(found.path).is_file):
        raise NoFile(export_id, found.state)
    headers = {
        "X-Request-Id": call.request_id,
        "Content-Type": ZIP,
        "Content-Disposition": f'attachment; filename="{found.format}-{found.id}.zip"',
        "Cache-Control": "no-store",
    }
    return web.FileResponse(found.path, headers=headers)
