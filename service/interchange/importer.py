"""Work on imports: stage their rows, plan what to do with them, and apply a confirmed plan in short transactions."""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from service.database import Database
from service.errors import DomainError, OutcomeUnknown, Unavailable
from service.interchange.bundle import open_bundle
from service.interchange.compare import Compared, Comparison
from service.interchange.formats.reading import Reading
from service.interchange.rows import DROPPED_IF_MISSING, KINDS, Kind, Place, Row, Unreadable
from service.registrar import Registrar
from service.registrar.changes import Origin
from service.settings import Settings
from sql import imports as sql
from sql.imports import Import, ImportRow, ImportState, ListedRow, PlannedAction, PlannedRow, SourceRow

logger = logging.getLogger(__name__)

LEASE: Final = timedelta(seconds=30)
"""How long a process that no longer answers keeps an import from others: many times the longest step."""

ROWS_PER_STATEMENT: Final = 500
"""Rows that are staged, compared or deleted together: comparing them keeps the event loop busy for about 15 ms."""

MARK_WITHOUT_EVENTS: Final = "0" * 16

Phase = tuple[Kind, PlannedAction]

PHASES: Final[tuple[Phase, ...]] = (
    *(
        (kind, action)
        for kind in ("term", "course", "instructor", "student")
        for action in ("add", "change", "unchanged")
    ),
    # A seat that becomes free may be the next student's; a section that is left may be exchanged for another.
    *((kind, action) for kind in DROPPED_IF_MISSING for action in ("drop", "add", "change", "unchanged")),
    *((kind, "drop") for kind in ("student", "instructor", "course", "term")),
)
"""The order in which a plan is applied: what others refer to is added first and dropped last."""


class Interrupted(Exception):
    """The import was cancelled, or another process works on it."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the sender of an import wants."""

    strict: bool = False
    """Nothing is applied if any row is refused."""
    as_recorded: bool = False
    """Enrollments are recorded as the files have them; overrides lift the rules that refuse them."""
    threshold: int = 10
    """Most rows that a plan may drop, in percent of those of a kind that the source lists."""
    drop: bool = True
    """Whether rows that the files do not list any more are dropped."""
    encoding: str | None = None
    """The encoding of files without a byte order mark; None is UTF-8."""

    @property
    def json(self) -> str:
        """The options as JSON."""
        return json.dumps(asdict(self))


Progress = Callable[[ImportState, int, int], None]
"""Called with the state, the rows that are done and their total, which is 0 while it is unknown."""


NO_PLACE: Final = Place("", 0)
"""The place of a row that is in no file."""


@dataclass(slots=True, eq=False)
class Importer:
    """One process's work on the imports of an institution."""

    database: Database
    registrar: Registrar
    settings: Settings
    on_progress: Progress | None = None
    runner: str = ""

    def __post_init__(self) -> None:
        self.runner = self.runner or str(uuid4())

    async def claim(self) -> Import | None:
        """Claim the first import that this process can work on; None while any process works on one."""
        unreadable: list[int] = []
        while True:
            async with self.database.writing() as connection:
                claimed = await sql.claim_import(connection, self.runner, LEASE, unreadable)
                if not claimed:
                    return None
                if claimed[0].path is None or os.access(claimed[0].path, os.R_OK):
                    return claimed[0]
                await sql.release_import(connection, claimed[0].id, self.runner)
            # The files are on another machine, or gone.
            unreadable.append(claimed[0].id)

    async def work(self, claimed: Import) -> None:
        """Take an import to its next state: planned, done or failed; stop quietly if it was cancelled.

        Raises:
            Unavailable, OutcomeUnknown: the database is unavailable; the import continues once it is claimed again.
        """
        job = Job(self, claimed, Options(**json.loads(claimed.options)))
        try:
            if claimed.state == "confirmed":
                await job.apply()
            else:
                await job.stage_and_plan()
        except Interrupted:
            logger.info("an import was interrupted", extra={"import_id": claimed.id})
        except Unreadable as error:
            await job.finish("failed", problem=str(error))
        except (Unavailable, OutcomeUnknown):
            raise
        except Exception:
            logger.exception("an import failed", extra={"import_id": claimed.id})
            await job.finish("failed", problem="The service failed: its log has the error.")


class Job:
    """The work of a process on one import."""

    def __init__(self, importer: Importer, claimed: Import, options: Options) -> None:
        self._importer = importer
        self._database = importer.database
        self._import = claimed
        self._options = options
        self._total = claimed.rows_total
        self._done = 0
        self._state: ImportState = "staging" if claimed.state == "queued" else claimed.state
        self._rested = asyncio.get_running_loop().time()
        """When the work last paused."""

    async def finish(
        self,
        state: ImportState,
        *,
        format: str | None = None,
        plan: Mapping[str, Any] | None = None,
        problem: str | None,
    ) -> None:
        """End the work, and delete the files if they were an upload."""
        async with self._database.reading(for_changes=True) as connection:
            await sql.finish_import(
                connection,
                self._import.id,
                self._importer.runner,
                state,
                format=format,
                plan=None if plan is None else json.dumps(plan, ensure_ascii=False),
                problem=problem,
                rows_total=self._total,
                rows_done=self._done,
            )
        delete_upload(self._import.path, self._importer.settings)

    async def _go_on(self) -> None:
        """Save the progress, which renews the claim, and leave the database to others for as long as the last step took.

        Raises:
            Interrupted: the import was cancelled, or another process has it.
        """
        if self._importer.on_progress is not None:
            self._importer.on_progress(self._state, self._done, self._total)
        async with self._database.reading(for_changes=True) as connection:
            saved = await sql.save_import_progress(
                connection,
                self._import.id,
                self._importer.runner,
                state=self._state,
                lease=LEASE,
                rows_done=self._done,
            )
        if not saved:
            raise Interrupted
        clock = asyncio.get_running_loop().time
        await asyncio.sleep((clock() - self._rested) * self._importer.settings.import_pause)
        self._rested = clock()

    async def stage_and_plan(self) -> None:
        """Stage all rows and compare them with what stands. Whatever an interrupted process has staged is replaced."""
        await self._go_on()
        await delete_rows(self._database, self._import.id)
        async with self._database.reading() as connection:
            mark = await sql.get_mark(connection) or MARK_WITHOUT_EVENTS
        assert self._import.path is not None
        settings = self._importer.settings
        with open_bundle(Path(self._import.path), self._import.name, settings.import_unpacked) as bundle:
            reading = Reading(bundle, self._options.encoding, mark, settings.import_rows)
            rows = reading.rows()
            while page := await asyncio.to_thread(lambda: [*islice(rows, ROWS_PER_STATEMENT)]):
                staged = [self._staged(row, number) for number, row in enumerate(page, self._done + 1)]
                async with self._database.reading(for_changes=True) as connection:
                    await sql.add_import_rows(connection, staged)
                self._done += len(page)
                await self._go_on()
        self._total, self._done = self._done, 0
        for kind in KINDS:
            await self._plan(kind, mark)
        missing = {kind: await self._drop_missing(kind) for kind in DROPPED_IF_MISSING if kind in reading.complete}
        plan, problem = await self._summary(missing, reading)
        self._done = 0
        await self.finish("planned", format=reading.format, plan=plan, problem=problem)

    async def _compare(self, rows: Sequence[ImportRow], mark: str, *, is_plan: bool) -> list[Compared]:
        its = self._import
        origin = Origin(request_id=f"import-{its.id}", actor=its.actor)
        async with self._database.reading() as connection:
            comparison = Comparison(connection, its.id, its.source, mark, origin, self._options.as_recorded, is_plan)
            return await comparison.compare(rows)

    def _staged(self, row: Row, number: int) -> ImportRow:
        return ImportRow(
            import_id=self._import.id,
            kind=row.kind,
            number=number,
            key=row.key,
            first_key=row.first,
            second_key=row.second,
            removed=row.removed,
            fields=row.json,
            file=row.place.file,
            line=row.place.line,
            file_column=row.place.column,
            action=None if row.code is None else "refused",
            code=row.code,
            detail=row.detail,
            row_id=None,
            other_id=None,
        )

    async def _pages(self, kind: Kind) -> AsyncIterator[list[ImportRow]]:
        after = 0
        while True:
            async with self._database.reading() as connection:
                page = await sql.list_import_rows(connection, self._import.id, kind, after, ROWS_PER_STATEMENT)
            if not page:
                return
            after = page[-1].number
            yield page

    async def _plan(self, kind: Kind, mark: str) -> None:
        """Plan the rows of a kind; of rows with the same key, all but the first are refused."""
        primary: set[str | None] = set()
        async for page in self._pages(kind):
            asked = [row for row in page if row.code is None]
            async with self._database.reading() as connection:
                repeated = await sql.find_repeated_rows(
                    connection, self._import.id, kind, [row.key for row in asked], [row.number for row in asked]
                )
            rows = self._refuse_contradictions(page, {*repeated}, primary)
            await self._save([planned(each) for each in await self._compare(rows, mark, is_plan=True)])
            self._done += len(page)
            await self._go_on()

    def _refuse_contradictions(
        self, page: Sequence[ImportRow], repeated: set[int], primary: set[str | None]
    ) -> list[ImportRow]:
        """Refuse rows whose key appeared before, and second primary instructors of a course."""
        rows = []
        for row in page:
            if row.number in repeated:
                sentence = "An earlier row has the same key: keep one of them."
                rows.append(row._replace(code="repeated_row", detail=sentence))
                continue
            if row.kind == "teaching" and row.code is None and not row.removed and json.loads(row.fields)["primary"]:
                if row.second_key in primary:
                    sentence = "The course has another primary instructor: name one of them as primary."
                    rows.append(row._replace(code="one_primary", detail=sentence))
                    continue
                primary.add(row.second_key)
            rows.append(row)
        return rows

    async def _save(self, rows: Sequence[PlannedRow]) -> None:
        if rows:
            async with self._database.reading(for_changes=True) as connection:
                await sql.save_planned_rows(connection, rows)

    async def _drop_missing(self, kind: Kind) -> int:
        """Stage the removal of the rows of a kind that the source lists and the files do not; return how many it lists."""
        find = sql.list_listed_enrollments if kind == "enrollment" else sql.list_listed_teachings
        after, listed = "", 0
        while True:
            async with self._database.reading() as connection:
                page = await find(connection, self._import.id, self._import.source, after, ROWS_PER_STATEMENT)
            if not page:
                return listed
            after, listed = page[-1].key, listed + len(page)
            if not self._options.drop:
                continue
            staged = [
                self._missing(kind, row, number)
                for number, row in enumerate([row for row in page if row.is_missing], self._total + 1)
            ]
            self._total += len(staged)
            if staged:
                async with self._database.reading(for_changes=True) as connection:
                    await sql.add_import_rows(connection, staged)
            await self._go_on()

    def _missing(self, kind: Kind, listed: ListedRow, number: int) -> ImportRow:
        """Return the staged row that drops what the files do not list any more."""
        first, _, second = listed.key.partition("\t")
        row = Row(kind, listed.key, NO_PLACE, first, second, {"status": "left"}, removed=True)
        return self._staged(row, number)._replace(action="drop", row_id=listed.row_id, other_id=listed.other_id)

    async def _summary(self, missing: Mapping[Kind, int], reading: Reading) -> tuple[dict[str, Any], str | None]:
        """Return the plan, and why it can't be confirmed; None if it can."""
        counts, refused = await self._count()
        problem = None
        for kind, actions in counts.items():
            if not (drops := actions.get("drop", 0)):
                continue
            listed = missing.get(kind)
            if listed is None:
                async with self._database.reading() as connection:
                    listed = await sql.count_source_rows(connection, self._import.source, kind)
            if drops * 100 > self._options.threshold * listed:
                problem = (
                    f"threshold: The plan would drop {drops:,} rows of the kind {kind}, and the source lists {listed:,}; the "
                    f"threshold is {self._options.threshold} %. Complete the files, or import them with a higher threshold."
                )
        if self._options.strict and refused:
            problem = f"strict: {sum(refused.values()):,} rows are refused: mend them, or import without strict."
        warnings = [
            {"file": file, "code": code, "count": count} for (file, code), count in sorted(reading.warnings.items())
        ]
        return {"counts": counts, "refused": refused, "warnings": warnings}, problem

    async def _count(self) -> tuple[dict[Kind, dict[PlannedAction, int]], dict[str, int]]:
        """Return how many rows have each action, by kind, and how many are refused, by code."""
        async with self._database.reading() as connection:
            counted = await sql.count_import_rows(connection, self._import.id)
            refused = await sql.count_refused_rows(connection, self._import.id)
        counts = {
            kind: {each.action: each.total for each in counted if each.kind == kind}
            for kind in KINDS
            if any(each.kind == kind for each in counted)
        }
        return counts, {code or "": total for code, total in sorted(refused, key=lambda each: each.code or "")}

    async def apply(self) -> None:
        """Apply the plan. Rows that an interrupted process has applied are not applied again, or change nothing then."""
        async with self._database.reading() as connection:
            mark = await sql.get_mark(connection) or MARK_WITHOUT_EVENTS
        self._done = self._import.rows_done
        for kind, action in PHASES:
            after = 0
            size = ROWS_PER_STATEMENT if action == "unchanged" else self._importer.settings.import_chunk
            if kind == "term":
                # A part of a term refers to one that was added just before.
                size = 1
            while True:
                async with self._database.reading() as connection:
                    page = await sql.list_rows_to_apply(
                        connection, self._import.id, kind=kind, action=action, after=after, limit=size
                    )
                if not page:
                    break
                after = page[-1].number
                if action == "unchanged":
                    await self._note_listed([(row, row.row_id, row.other_id) for row in page])
                else:
                    await self._apply_chunk(page, mark)
                self._done += len(page)
                await self._go_on()
        counts, refused = await self._count()
        plan = json.loads(self._import.plan or "{}")
        self._total = max(self._total, self._done)
        self._done = self._total
        await self.finish("done", plan={**plan, "applied": {"counts": counts, "refused": refused}}, problem=None)

    async def _apply_chunk(self, page: Sequence[ImportRow], mark: str) -> None:
        """Apply some rows in one transaction."""
        compared = await self._compare(page, mark, is_plan=False)
        changes = [change for each in compared for change in each.changes]
        outcomes = iter(await self._importer.registrar.submit_all(changes) if changes else [])
        results = [self._result(each, [*islice(outcomes, len(each.changes))]) for each in compared]
        await self._note_listed(
            [(each.row, each.row_id, each.other_id) for each in results if each.action != "refused"]
        )
        # What a row did stays its action: the counts at the end are those of the plan, but for rows that were refused.
        await self._save(
            [
                planned(
                    each if each.action == "refused" else each._replace(action=row.action or each.action), done=True
                )
                for each, row in zip(results, page, strict=True)
            ]
        )

    def _result(self, compared: Compared, outcomes: Sequence[object]) -> Compared:
        """Return what became of a row.

        Raises:
            Unavailable, OutcomeUnknown: the database is unavailable.
        """
        for outcome in outcomes:
            if isinstance(outcome, Unavailable | OutcomeUnknown):
                raise outcome
            if isinstance(outcome, DomainError):
                code = outcome.errors[0].code if len(outcome.errors) == 1 else outcome.code
                detail = " ".join(each.detail for each in outcome.errors) or outcome.detail
                return compared._replace(action="refused", code=code, detail=detail)
            if isinstance(outcome, Exception):
                logger.error("a row of an import failed", exc_info=outcome, extra={"import_id": self._import.id})
                return compared._replace(
                    action="refused", code="internal_error", detail="The service failed: see its log."
                )
        if compared.row_id is None and outcomes:
            return compared._replace(row_id=getattr(outcomes[0], "id", None))
        return compared

    async def _note_listed(self, rows: Sequence[tuple[ImportRow, int | None, int | None]]) -> None:
        """Note which rows the source lists, and which it lists no longer."""
        source = self._import.source
        listed = {
            row.key: SourceRow(source, row.kind, row.key, row_id, other_id or 0)
            for row, row_id, other_id in rows
            if row_id is not None and not row.removed
        }
        gone = [row.key for row, _, _ in rows if row.removed]
        async with self._database.reading(for_changes=True) as connection:
            if listed:
                await sql.save_source_rows(connection, [*listed.values()])
            if gone:
                await sql.delete_source_rows(connection, source, rows[0][0].kind, gone)


def planned(compared: Compared, *, done: bool = False) -> PlannedRow:
    """Return what to save about a row."""
    row = compared.row
    return PlannedRow(
        row.import_id,
        row.kind,
        row.number,
        compared.action,
        compared.code,
        compared.detail,
        compared.row_id,
        compared.other_id,
        done,
    )


async def delete_rows(database: Database, import_id: int) -> None:
    """Delete the staged rows of an import, some with each statement."""
    for kind in KINDS:
        deleted = ROWS_PER_STATEMENT
        while deleted == ROWS_PER_STATEMENT:
            async with database.reading(for_changes=True) as connection:
                deleted = len(await sql.delete_import_rows(connection, import_id, kind, ROWS_PER_STATEMENT))


async def delete_old_imports(database: Database, age: timedelta, limit: int) -> None:
    """Delete imports that have not changed for some time, with their rows."""
    async with database.reading() as connection:
        ids = await sql.find_old_imports(connection, age, limit)
    for id in ids:
        await delete_rows(database, id)
        async with database.reading(for_changes=True) as connection:
            await sql.delete_import(connection, id)


def delete_upload(path: str | None, settings: Settings) -> None:
    """Delete the files of an import if they are an upload in the spool folder; other files belong to someone else."""
    if path is not None and Path(path).parent == settings.spool:
        Path(path).unlink(missing_ok=True)
