"""Write exports: one snapshot, read in pages and spooled to a zip."""

import asyncio
import csv
import io
import logging
import os
import secrets
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from uuid import uuid4

from service.database import Database
from service.errors import OperatorError, OutcomeUnknown, Unavailable
from service.interchange.formats.oneroster import MANIFEST
from service.interchange.formats.writing import (
    SHEETS,
    Cells,
    Context,
    ExportFormat,
    Sheet,
    deleted,
    deleted_person,
    gone,
    manifest,
)
from service.interchange.importer import LEASE, MARK_WITHOUT_EVENTS
from service.interchange.rows import Kind
from service.interchange.spool import open_spool
from service.settings import Settings
from sql import Connection
from sql import exports as sql
from sql.courses import load_courses
from sql.enrollments import Pair
from sql.exports import Export
from sql.imports import get_mark
from sql.instructors import list_instructors, load_instructors
from sql.students import list_students, load_students
from sql.terms import list_terms, load_terms
from sql.tombstones import load_tombstones

logger = logging.getLogger(__name__)

PAGE_ROWS: Final = 2_000
"""Rows that are read with one statement: they and their records take some megabytes."""

MAX_CHANGES: Final = 500_000
"""Most rows that a delta may contain, in about 100 MB of memory; a bulk export is the better answer to more."""

COMPRESSION: Final = 1
"""The level that packs a third less than the default, in a third of its time."""


class ExportRefused(OperatorError):
    """The export can't be made as asked."""


class Interrupted(Exception):
    """Another process works on the export, or it was taken back."""


class Written(NamedTuple):
    """A file of an export that is complete."""

    position: int
    rows: int


@dataclass(slots=True)
class Changed:
    """The ids of the rows that a delta contains."""

    terms: set[int] = field(default_factory=set)
    courses: set[int] = field(default_factory=set)
    instructors: set[int] = field(default_factory=set)
    students: set[int] = field(default_factory=set)
    taught: set[int] = field(default_factory=set)
    """The courses whose instructors have changed."""
    pairs: set[Pair] = field(default_factory=set)

    def add(self, row: sql.ChangedRow) -> None:
        """Add what an event changed."""
        resource, _, action = row.type.partition(".")
        if resource == "student" and row.student_id is not None:
            self.students.add(row.student_id)
        elif resource == "enrollment" and row.student_id is not None and row.course_id is not None:
            self.pairs.add(Pair(row.student_id, row.course_id))
        elif resource == "course" and row.course_id is not None:
            (self.taught if action == "instructors_set" else self.courses).add(row.course_id)
        elif resource == "term" and row.term_id is not None:
            self.terms.add(row.term_id)
        elif row.instructor_id is not None:
            self.instructors.add(row.instructor_id)

    def __len__(self) -> int:
        people = len(self.instructors) + len(self.students)
        return len(self.terms) + len(self.courses) + people + len(self.taught) + len(self.pairs)


Item = TypeVar("Item")
GoOn = Callable[[int], Awaitable[None]]
"""Called with the number of rows that are written; raises to stop."""


async def _do_nothing(_rows: int) -> None:
    """Go on."""


async def write_export(
    database: Database,
    settings: Settings,
    format: ExportFormat,
    path: Path,
    *,
    after: int | None,
    go_on: GoOn = _do_nothing,
) -> Written:
    """Write everything, or what has changed after a position of the feed, into a zip; the moment is one snapshot.

    Raises:
        ExportRefused: a delta has too many rows, or begins in the future.
        Unavailable: the database is unavailable.
        OSError: the file can't be written.
    """
    async with database.viewing() as connection:
        position = await sql.get_newest_position(connection)
        if after is not None and after > position:
            raise ExportRefused(f"The newest position of the feed is {position}: a delta can't begin after {after}.")
        mark = await get_mark(connection) or MARK_WITHOUT_EVENTS
        context = Context(settings, mark, datetime.now(UTC), is_delta=after is not None)
        await _fill(connection, context)
        changed = None if after is None else await _changed(connection, after)
        rows = 0
        with zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED, compresslevel=COMPRESSION) as archive:
            if format in {"oneroster-1.1", "oneroster-1.2"}:
                _write(archive, MANIFEST, manifest(format.removeprefix("oneroster-"), context))
            for sheet in SHEETS[format]:
                with io.TextIOWrapper(
                    archive.open(sheet.name, "w", force_zip64=True), encoding="utf-8", newline=""
                ) as file:
                    async for records in _records(connection, context, sheet, changed):
                        await asyncio.to_thread(_write_records, file, records, is_csv=bool(sheet.header))
                        rows += len(records)
                        await go_on(rows)
        return Written(position, rows)


async def _fill(connection: Connection, context: Context) -> None:
    """Load what records need of terms and courses."""
    async for terms in _by_id(connection, list_terms):
        context.terms.update({term.id: term for term in terms})
    async for courses in _by_id(connection, sql.list_courses_to_export):
        for course in courses:
            context.add_course(course)


async def _changed(connection: Connection, after: int) -> Changed:
    """Return the ids of the rows that changed after a position.

    Raises:
        ExportRefused: there are too many.
    """
    changed = Changed()
    while page := await sql.list_changed_rows(connection, after, PAGE_ROWS):
        for row in page:
            changed.add(row)
        if len(changed) > MAX_CHANGES:
            raise ExportRefused(f"More than {MAX_CHANGES:,} rows have changed since that position: make a bulk export.")
        after = page[-1].position
    return changed


async def _records(
    connection: Connection, context: Context, sheet: Sheet, changed: Changed | None
) -> AsyncIterator[Sequence[Cells]]:
    """Yield the records of a file, the header first, in pages."""
    yield [*([sheet.header] if sheet.header else []), *sheet.before(context)]
    for part in sheet.parts:
        pages = _all(connection, part.kind) if changed is None else _loaded(connection, part.kind, changed)
        async for rows in pages:
            yield [record for row in rows for record in part.records(context, row)]
        if changed is not None and part.kind in {"instructor", "student"}:
            async for people in _deleted(connection, part.kind, changed):
                yield [deleted(record) for person in people for record in part.records(context, person)]
    if changed is not None and sheet.name == "academicSessions.csv":
        yield [*gone(context, sheet.name, changed.terms - context.terms.keys())]
    if changed is not None and sheet.name == "classes.csv":
        yield [*gone(context, sheet.name, changed.courses - context.courses.keys())]


async def _by_id(
    connection: Connection, read: Callable[[Connection, int, int], Awaitable[Sequence[Any]]]
) -> AsyncIterator[Sequence[Any]]:
    after = 0
    while page := await read(connection, after, PAGE_ROWS):
        yield page
        after = page[-1].id


LISTS: Final[dict[Kind, Callable[[Connection, int, int], Awaitable[Sequence[Any]]]]] = {
    "term": list_terms,
    "course": sql.list_courses_to_export,
    "instructor": list_instructors,
    "student": list_students,
}


async def _all(connection: Connection, kind: Kind) -> AsyncIterator[Sequence[Any]]:
    """Yield all rows of a kind in pages."""
    if kind in LISTS:
        async for page in _by_id(connection, LISTS[kind]):
            yield page
        return
    first = second = 0
    while True:
        if kind == "teaching":
            taught = await sql.list_teachings_to_export(connection, first, second, PAGE_ROWS)
            if taught:
                first, second = taught[-1].course_id, taught[-1].instructor_id
                yield taught
        else:
            enrolled = await sql.list_enrollments_to_export(connection, first, second, PAGE_ROWS)
            if enrolled:
                first, second = enrolled[-1].student_id, enrolled[-1].course_id
                yield enrolled
        if not (taught if kind == "teaching" else enrolled):
            return


async def _loaded(connection: Connection, kind: Kind, changed: Changed) -> AsyncIterator[Sequence[Any]]:
    """Yield the rows of a kind that have changed, in pages."""
    if kind == "enrollment":
        for pairs in _chunks(sorted(changed.pairs)):
            yield await sql.load_enrollments_to_export(connection, pairs)
    elif kind == "teaching":
        for ids in _chunks(sorted(changed.taught)):
            yield await sql.load_teachings_to_export(connection, ids)
    else:
        loads: dict[Kind, tuple[Callable[[Connection, list[int]], Awaitable[Sequence[Any]]], set[int]]] = {
            "term": (load_terms, changed.terms),
            "course": (load_courses, changed.courses),
            "instructor": (load_instructors, changed.instructors),
            "student": (load_students, changed.students),
        }
        load, wanted = loads[kind]
        for ids in _chunks(sorted(wanted)):
            rows = await load(connection, ids)
            # Terms are loaded with those of which they are parts.
            yield [row for row in rows if row.id in wanted]


async def _deleted(connection: Connection, kind: Kind, changed: Changed) -> AsyncIterator[Sequence[Any]]:
    """Yield the instructors or the students who were deleted, in pages: all that is left of them is the sourced id."""
    for ids in _chunks(sorted(changed.instructors if kind == "instructor" else changed.students)):
        rows = await load_tombstones(connection, kind, ids)
        yield [
            deleted_person(row.id, row.sourced_id, row.deleted_at, is_student=kind == "student")
            for row in rows
            if row.sourced_id
        ]


def _chunks(items: list[Item]) -> Iterator[list[Item]]:
    for start in range(0, len(items), PAGE_ROWS):
        yield items[start : start + PAGE_ROWS]


def _write(archive: zipfile.ZipFile, name: str, records: Iterable[Cells]) -> None:
    with io.TextIOWrapper(archive.open(name, "w"), encoding="utf-8", newline="") as file:
        _write_records(file, [*records], is_csv=True)


def _write_records(file: io.TextIOWrapper, records: Sequence[Cells], *, is_csv: bool) -> None:
    if is_csv:
        csv.writer(file).writerows(records)
    else:
        file.writelines(f"{record[0]}\n" for record in records)


class Exporter:
    """One process's work on the exports of an institution."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._runner = str(uuid4())

    async def work(self) -> bool:
        """Write the first export of the queue; return whether there was one.

        Raises:
            Unavailable, OutcomeUnknown: the database is unavailable; the export is written once it is claimed again.
        """
        async with self._database.reading(for_changes=True) as connection:
            claimed = await sql.claim_export(connection, self._runner, LEASE)
        if not claimed:
            return False
        [export] = claimed
        try:
            await self._write(export)
        except Interrupted:
            logger.info("an export was interrupted", extra={"export_id": export.id})
        except ExportRefused as error:
            await self._finish(export, problem=str(error))
        except (Unavailable, OutcomeUnknown):
            raise
        except Exception:
            logger.exception("an export failed", extra={"export_id": export.id})
            await self._finish(export, problem="The service failed: its log has the error.")
        return True

    async def _write(self, export: Export) -> None:
        folder = await asyncio.to_thread(open_spool, self._settings)
        path = folder / f"export-{export.id}-{secrets.token_hex(8)}.zip"
        clock = asyncio.get_running_loop().time
        renewed = clock()

        async def go_on(rows: int) -> None:
            nonlocal renewed
            if clock() - renewed < LEASE.total_seconds() / 10:
                return
            renewed = clock()
            async with self._database.reading(for_changes=True) as connection:
                if not await sql.renew_export(connection, export.id, self._runner, LEASE, rows):
                    raise Interrupted

        try:
            format: ExportFormat = export.format  # type: ignore[assignment]  # The statements return it as text.
            written = await write_export(self._database, self._settings, format, path, after=export.after, go_on=go_on)
            size = await asyncio.to_thread(os.path.getsize, path)
            if not await self._finish(export, written=written, path=path, size=size):
                raise Interrupted
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    async def _finish(
        self,
        export: Export,
        *,
        written: Written | None = None,
        path: Path | None = None,
        size: int | None = None,
        problem: str | None = None,
    ) -> bool:
        async with self._database.reading(for_changes=True) as connection:
            finished = await sql.finish_export(
                connection,
                export.id,
                self._runner,
                "done" if written else "failed",
                position=written.position if written else None,
                path=str(path) if path else None,
                size=size,
                rows_done=written.rows if written else export.rows_done,
                problem=problem,
            )
        return bool(finished)


async def delete_old_exports(database: Database, settings: Settings, limit: int) -> None:
    """Delete exports above their age with their files, and the files that were taken back."""
    async with database.reading() as connection:
        found = await sql.find_old_exports(connection, timedelta(hours=settings.exports_kept), limit)
    for export in found:
        if export.path is not None and Path(export.path).parent == settings.spool:
            await asyncio.to_thread(Path(export.path).unlink, missing_ok=True)
        async with database.reading(for_changes=True) as connection:
            await sql.delete_export(connection, export.id)
