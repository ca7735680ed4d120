"""Imports over HTTP: sending files, looking at the plan, and confirming it."""

import csv
import io
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeAlias

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from service.api.answers import Id
from service.api.fields import IdInPath, Name, Truth
from service.api.keys import DATABASE
from service.errors import Detail, ImportNotFound, NoPlan, PlanRefused
from service.interchange.formats.plain import TABLES
from service.interchange.importer import Options, delete_upload
from service.interchange.report import ERROR_COLUMNS, error_cells, refused_rows
from service.interchange.rows import Kind
from service.interchange.spool import receive
from service.interchange.table import Encoding
from service.interchange.worker import WORKER
from service.web.endpoint import Call, Reply, endpoint
from service.web.paging import Digits, Page, Paging, decode_cursor, page_of
from service.web.problems import UnsupportedMediaType, invalid
from service.web.schema import named
from sql import imports as sql
from sql.imports import ImportState, PlannedAction

NEWEST: Final = 2**63 - 1
ZIP: Final = "application/zip"
CSV: Final = "text/csv"
SAMPLES: Final = 10
"""Rows of each action that a plan shows."""

NamedState: TypeAlias = Annotated[
    ImportState,
    named(
        "ImportState",
        "`queued` and `staging`: its files are read. `planned`: it waits for the confirmation of its plan. `confirmed`: its "
        "plan is applied. `done`, `failed` and `cancelled`: it is at an end.",
    ),
]
NamedAction: TypeAlias = Annotated[PlannedAction, named("PlannedAction", "What a plan does with a row of a file.")]
NamedKind: TypeAlias = Annotated[
    Kind, named("ImportedKind", "What a row of a file describes; `teaching` is an instructor of a course.")
]
NamedEncoding: TypeAlias = Annotated[Encoding, named("Encoding", "An encoding of text.")]
FileName: TypeAlias = Annotated[
    Literal["terms.csv", "courses.csv", "instructors.csv", "students.csv", "course_instructors.csv", "enrollments.csv"],
    named("PlainFile", "The name of a file of plain CSV, which tells what its rows are."),
]


class ImportQuery(BaseModel):
    """How to import the files of the body."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Annotated[
        Name,
        Field(description="Whose files they are: only rows that files of this source have listed are ever dropped."),
    ] = "import"
    file: Annotated[FileName | None, Field(description="The name of the file, if the body is `text/csv`.")] = None
    strict: Annotated[bool, Truth, Field(description="Apply nothing if any row is refused.")] = False
    as_recorded: Annotated[
        bool,
        Truth,
        Field(
            description="Record enrollments as the files have them: overrides seat students whom the rules would refuse. "
            "Requires the scope `override`."
        ),
    ] = False
    drop: Annotated[bool, Truth, Field(description="Drop rows that the files no longer list.")] = True
    threshold: Annotated[
        int,
        Field(
            ge=0,
            le=100,
            description="Most rows of a kind that a plan may drop, in percent of those that the source lists.",
        ),
        Digits,
    ] = 10
    encoding: Annotated[
        NamedEncoding | None,
        Field(description="The encoding of files without a byte order mark; by default UTF-8."),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the work in the current state is."""

    rows_done: Annotated[int, Field(description="Rows that were read, planned or applied.")]
    rows_total: Annotated[int, Field(description="All rows; 0 while the files are read.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """An import of files."""

    id: Id
    source: Annotated[str, Field(description="Whose files they are.")]
    state: NamedState
    format: Annotated[
        str | None, Field(description="`plain`, `oneroster-1.1` or `oneroster-1.2`; null until the files are read.")
    ]
    name: Annotated[str, Field(description="The name of the zip or the file.")]
    strict: Annotated[bool, Field(description="Whether nothing is applied if any row is refused.")]
    as_recorded: Annotated[bool, Field(description="Whether overrides seat students whom the rules would refuse.")]
    drop: Annotated[bool, Field(description="Whether rows that the files no longer list are dropped.")]
    threshold: Annotated[int, Field(description="Most rows of a kind that the plan may drop, in percent.")]
    encoding: Annotated[str | None, Field(description="The encoding that was named; null if none was.")]
    problem: Annotated[
        str | None, Field(description="Why the import failed, or why its plan can't be confirmed; null if neither.")
    ]
    progress: Progress
    actor: Annotated[str | None, Field(description="Who sent the files; null if nobody was authenticated.")]
    created_at: Annotated[datetime, Field(description="When the files arrived.")]
    confirmed_at: Annotated[datetime | None, Field(description="When the plan was confirmed; null if it was not.")]
    updated_at: Annotated[datetime, Field(description="When the import last went on.")]


def import_of(row: sql.Import) -> Import:
    """Convert a row to the import that the API returns."""
    options = Options(**json.loads(row.options))
    return Import(
        id=row.id,
        source=row.source,
        state=row.state,
        format=row.format,
        name=row.name,
        strict=options.strict,
        as_recorded=options.as_recorded,
        drop=options.drop,
        threshold=options.threshold,
        encoding=options.encoding,
        problem=row.problem,
        progress=Progress(rows_done=row.rows_done, rows_total=row.rows_total),
        actor=row.actor,
        created_at=row.created_at,
        confirmed_at=row.confirmed_at,
        updated_at=row.updated_at,
    )


async def find_import(call: Call, import_id: int) -> sql.Import:
    """Return an import.

    Raises:
        ImportNotFound: there is none with this id.
    """
    async with call[DATABASE].reading() as connection:
        found = await sql.get_import(connection, import_id)
    if found is None:
        raise ImportNotFound(import_id)
    return found


@endpoint("POST", "/imports", scope="manage", status=202, keyed=False, uploads=(ZIP, CSV))
async def create_import(call: Call, query: ImportQuery) -> Reply[Import]:
    """Import the files in the body: a zip of CSV files, or one CSV file.

    The files are OneRoster CSV 1.1 or 1.2 or plain CSV. They are read and compared with what stands; then the import waits
    for the confirmation of its plan. Imports are worked on one after the other. Requires the scope `enroll` too.
    """
    call.require("enroll")
    if query.as_recorded:
        call.require("override")
    kind = call.request.content_type
    if kind not in {ZIP, CSV}:
        raise UnsupportedMediaType("Send a zip as application/zip, or one CSV file as text/csv.")
    if (kind == CSV) != (query.file is not None):
        sentence = f"file is required for a body of {CSV}, and for no other: one of {', '.join(TABLES)}."
        raise invalid([Detail("required", sentence, parameter="file")])
    settings = call[WORKER].settings
    path = await receive(call.request, settings, ".csv" if kind == CSV else ".zip")
    options = Options(query.strict, query.as_recorded, query.threshold, query.drop, query.encoding)
    try:
        async with call[DATABASE].reading(for_changes=True) as connection:
            [added] = await sql.add_import(
                connection,
                source=query.source,
                name=query.file or "import.zip",
                path=str(path),
                options=options.json,
                actor=call.caller.name,
            )
    except BaseException:
        delete_upload(str(path), settings)
        raise
    call[WORKER].imports.wake()
    return Reply(import_of(added), 202, {"Location": f"/imports/{added.id}"})


@endpoint("GET", "/imports", scope="manage")
async def list_imports(call: Call, query: Paging) -> Page[Import]:
    """List the imports, the newest first.

    An operator sets for how many days imports are kept.
    """
    before = decode_cursor(query.cursor, "imports") or NEWEST
    async with call[DATABASE].reading() as connection:
        found = await sql.list_imports(connection, before, query.limit + 1)
    return page_of([import_of(row) for row in found], query.limit, "imports", lambda each: each.id)


@endpoint("GET", "/imports/{import_id}", scope="manage", problems=[ImportNotFound], routine=True)
async def read_import(call: Call, import_id: IdInPath) -> Import:
    """Read an import: its state, and how far it is.

    Ask once a second until it is planned, and again until it is done.
    """
    return import_of(await find_import(call, import_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class KindCount:
    """How many rows of a kind a plan adds, changes, drops, leaves as they are and refuses."""

    kind: NamedKind
    add: Annotated[int, Field(description="Rows to add.")]
    change: Annotated[int, Field(description="Rows to change.")]
    drop: Annotated[int, Field(description="Rows to drop.")]
    unchanged: Annotated[int, Field(description="Rows that are as the files have them.")]
    refused: Annotated[int, Field(description="Rows that are refused.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeCount:
    """How many rows are refused for a reason."""

    code: Annotated[str, Field(description="The stable code of the reason.")]
    count: Annotated[int, Field(description="The number of rows.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileWarning:
    """Something unusual in a file that does no harm."""

    file: Annotated[str, Field(description="The name of the file.")]
    code: Annotated[str, Field(description="The stable code of the warning.")]
    count: Annotated[int, Field(description="How often it was found.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A row of a file, with what the plan does with it."""

    action: NamedAction
    kind: NamedKind
    key: Annotated[str, Field(description="The key of the row; a tab separates the keys of the two rows of a pair.")]
    file: Annotated[str, Field(description="The name of the file; empty for a row that no file lists any more.")]
    line: Annotated[int, Field(description="The line in the file, counted from 1; 0 if it is in no file.")]
    code: Annotated[str | None, Field(description="Why the row is refused; null if it is not.")]
    detail: Annotated[str | None, Field(description="The same as a sentence.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an import does, or did, with the rows of its files."""

    counts: Annotated[list[KindCount], Field(description="By kind, in the order in which they are applied.")]
    refused: Annotated[list[CodeCount], Field(description="Why rows are refused, by code.")]
    warnings: Annotated[list[FileWarning], Field(description="What is unusual in the files.")]
    samples: Annotated[list[Sample], Field(description="Up to 10 rows of each action but `unchanged`.")]


@endpoint("GET", "/imports/{import_id}/plan", scope="manage", problems=[ImportNotFound, NoPlan])
async def read_plan(call: Call, import_id: IdInPath) -> Plan:
    """Read the plan of an import: how many rows it adds, changes, drops and refuses, and why.

    Once the import is done, the counts are those of what it did: a rule may have refused rows that the plan had not.
    """
    found = await find_import(call, import_id)
    if found.plan is None:
        raise NoPlan(import_id, found.state)
    samples: list[Sample] = []
    async with call[DATABASE].reading() as connection:
        for action in SHOWN:
            rows = await sql.list_rows_by_action(
                connection, import_id, action=action, after_kind="", after=0, limit=SAMPLES
            )
            samples += [sample_of(row) for row in rows]
    plan: dict[str, Any] = json.loads(found.plan)
    its = plan.get("applied", plan)
    return Plan(
        counts=[
            KindCount(kind=kind, **{action: actions.get(action, 0) for action in (*SHOWN, "unchanged")})
            for kind, actions in its["counts"].items()
        ],
        refused=[CodeCount(code=code, count=count) for code, count in its["refused"].items()],
        warnings=[FileWarning(**each) for each in plan["warnings"]],
        samples=samples,
    )


SHOWN: Final[tuple[PlannedAction, ...]] = ("add", "change", "drop", "refused")


def sample_of(row: sql.ImportRow) -> Sample:
    """Convert a staged row to the sample that the API returns."""
    assert row.action is not None
    return Sample(
        action=row.action,
        kind=row.kind,  # type: ignore[arg-type]  # The statements return it as text.
        key=row.key,
        file=row.file,
        line=row.line,
        code=row.code,
        detail=row.detail,
    )


@endpoint("GET", "/imports/{import_id}/errors", scope="manage", problems=[ImportNotFound], downloads=("text/csv",))
async def list_errors(call: Call, import_id: IdInPath) -> web.StreamResponse:
    """List the rows of an import that are refused.

    The answer is CSV with the columns file, line, column, kind, key, code and detail.
    """
    await find_import(call, import_id)
    response = await call.start_stream("text/csv; charset=utf-8")
    if call.request.method == "HEAD":
        return response
    with suppress(ConnectionError):
        await response.write(as_csv([ERROR_COLUMNS]))
        async for page in refused_rows(call[DATABASE], import_id):
            await response.write(as_csv([error_cells(row) for row in page]))
    return response


def as_csv(rows: Sequence[Sequence[object]]) -> bytes:
    """Return rows as CSV."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


@endpoint(
    "POST",
    "/imports/{import_id}/confirm",
    scope="manage",
    problems=[ImportNotFound, NoPlan, PlanRefused],
    keyed=False,
    final=True,
)
async def confirm_import(call: Call, import_id: IdInPath) -> Import:
    """Confirm the plan of an import, which is then applied in the background.

    Each row is compared again before it is applied. A second call changes nothing. Requires the scope `enroll` too.
    """
    call.require("enroll")
    found = await find_import(call, import_id)
    if found.plan is None or found.state in {"failed", "cancelled"}:
        raise NoPlan(import_id, found.state)
    if Options(**json.loads(found.options)).as_recorded:
        call.require("override")
    if found.problem is not None:
        raise PlanRefused(found.problem)
    async with call[DATABASE].writing() as connection:
        confirmed = await sql.confirm_import(connection, import_id)
    after = await find_import(call, import_id)
    if not confirmed and after.state == "planned":
        raise PlanRefused("Another import of this source was confirmed after this plan was made: send the files again.")
    call[WORKER].imports.wake()
    return import_of(after)


@endpoint("POST", "/imports/{import_id}/cancel", scope="manage", problems=[ImportNotFound], keyed=False, final=True)
async def cancel_import(call: Call, import_id: IdInPath) -> Import:
    """Cancel an import that is not at an end.

    What it has applied already stays. A second call changes nothing.
    """
    found = await find_import(call, import_id)
    async with call[DATABASE].reading(for_changes=True) as connection:
        cancelled = await sql.cancel_import(connection, import_id)
    if cancelled:
        delete_upload(found.path, call[WORKER].settings)
    return import_of(await find_import(call, import_id))
