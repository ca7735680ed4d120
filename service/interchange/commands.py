"""``python -m service import`` and ``python -m service export``."""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from service.database import Database
from service.errors import OperatorError
from service.interchange.exporter import ExportRefused, write_export
from service.interchange.formats.writing import DELTA_FORMATS
from service.interchange.importer import Importer, Options
from service.interchange.report import write_report
from service.interchange.rows import KINDS
from service.interchange.table import ENCODINGS
from service.registrar import Registrar
from service.registry import settings_for
from service.settings import Settings
from sql import imports as sql
from sql.imports import Import, ImportState

ROWS_REFUSED: Final = 3
"""The exit status of an import that was applied, except for rows that were refused."""

POLL_SECONDS: Final = 0.5
AT_AN_END: Final = frozenset({"done", "failed", "cancelled"})

LABELS: Final = {
    "term": "terms",
    "course": "courses",
    "instructor": "instructors",
    "student": "students",
    "teaching": "instructors of courses",
    "enrollment": "enrollments",
}
ACTIONS: Final = ("add", "change", "drop", "unchanged", "refused")


class ImportRefused(OperatorError):
    """The import can't be made as asked."""


@asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[tuple[Database, Registrar]]:
    """Yield the database of an institution and a registrar of it."""
    database = Database(settings)
    await database.open()
    registrar = Registrar(database, settings)
    try:
        yield database, registrar
    finally:
        await registrar.close()
        await database.close()


class Bar:
    """A progress bar on a terminal, for one state after the other; elsewhere nothing."""

    def __init__(self) -> None:
        self._state: ImportState | None = None
        self._bar: tqdm[Any] | None = None

    def show(self, state: ImportState, done: int, total: int) -> None:
        """Show how many rows are done."""
        if not sys.stderr.isatty():
            return
        if self._bar is None or state != self._state or (total and not self._bar.total):
            self.close()
            name = "apply" if state == "confirmed" else "plan" if total else "read"
            self._bar, self._state = tqdm(total=total or None, desc=name, unit=" rows", leave=False), state
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


async def run_import(settings: Settings, given: argparse.Namespace) -> int:
    """Import files, and return the exit status.

    Raises:
        ImportRefused: the options are wrong, the files can't be read, or the plan can't be confirmed.
        DomainError: as ``settings_for``, or the database is unavailable.
    """
    path: Path = given.path.resolve()
    if given.encoding is not None and given.encoding not in ENCODINGS:
        raise ImportRefused(f"--encoding must be one of {', '.join(ENCODINGS)}.")
    if not path.exists():
        raise ImportRefused(f"There is no file or folder {given.path}.")
    options = Options(given.strict, given.as_recorded, given.threshold, not given.no_drop, given.encoding)
    settings = await settings_for(settings, given.institution)
    bar = Bar()
    async with working(settings) as (database, registrar):
        async with database.writing() as connection:
            [added] = await sql.add_import(
                connection, source=given.source, name=path.name, path=str(path), options=options.json, actor="import"
            )
        importer = Importer(database, registrar, settings, bar.show)
        try:
            found = await _until(importer, bar, added.id, {"planned"})
            print(f"import {found.id} of the source {found.source}, {found.format or 'unreadable'}")
            if found.state != "planned":
                raise ImportRefused(f"Nothing was imported. {found.problem or found.state}")
            show_plan(json.loads(found.plan or "{}"))
            if not given.dry_run and found.problem is None and _is_confirmed(given):
                async with database.writing() as connection:
                    confirmed = await sql.confirm_import(connection, found.id)
                if not confirmed:
                    raise ImportRefused(
                        "Another import of this source was confirmed meanwhile: import the files again."
                    )
                found = await _until(importer, bar, added.id, set())
        finally:
            bar.close()
            async with database.reading(for_changes=True) as connection:
                await sql.cancel_import(connection, added.id)
        report = given.report or Path(f"import-{found.id}-refused")
        files = await write_report(database, settings, found.id, path=path, encoding=given.encoding, folder=report)
    return _conclude(found, [str(file) for file in files], given)


async def _until(importer: Importer, bar: Bar, import_id: int, states: set[str]) -> Import:
    """Work on the queue until an import has one of the states, or is at an end; return it."""
    while True:
        async with importer.database.reading() as connection:
            found = await sql.get_import(connection, import_id)
        if found is None or found.state in states | AT_AN_END:
            assert found is not None
            bar.close()
            return found
        claimed = await importer.claim()
        if claimed is None:
            bar.show(found.state, found.rows_done, found.rows_total)
            await asyncio.sleep(POLL_SECONDS)
            continue
        if claimed.id != import_id:
            print(f"import {claimed.id} of the source {claimed.source} was interrupted: it is continued first")
        await importer.work(claimed)


async def run_export(settings: Settings, given: argparse.Namespace) -> int:
    """Write an export into a file, and return the exit status.

    Raises:
        ExportRefused: the export can't be made as asked.
        DomainError: as ``settings_for``, or the database is unavailable.
        OSError: the file exists, or can't be written.
    """
    settings = await settings_for(settings, given.institution)
    if given.after is not None and given.format not in DELTA_FORMATS:
        raise ExportRefused(f"--after: only {' and '.join(sorted(DELTA_FORMATS))} have deltas.")
    part = given.path.with_name(f"{given.path.name}.part")
    if given.path.exists():
        raise ExportRefused(f"The file {given.path} exists: name another one.")
    database = Database(settings)
    await database.open()
    try:
        written = await write_export(database, settings, given.format, part, after=given.after)
        part.chmod(0o600)
        part.rename(given.path)
    finally:
        part.unlink(missing_ok=True)
        await database.close()
    print(f"{written.rows:,} records in {given.path}; position {written.position} of the feed")
    return 0


def show_plan(plan: Any) -> None:
    """Print how many rows a plan adds, changes, drops, leaves and refuses."""
    print(f"{'':24}" + "".join(f"{action:>12}" for action in ACTIONS))
    counts = plan.get("counts", {})
    for kind in KINDS:
        if kind in counts:
            print(f"{LABELS[kind]:24}" + "".join(f"{counts[kind].get(action, 0):>12,}" for action in ACTIONS))
    for code, count in plan.get("refused", {}).items():
        print(f"refused: {code}: {count:,}")
    for each in plan.get("warnings", []):
        print(f"note: {each['file']}: {each['code']}: {each['count']:,}")


def _is_confirmed(given: argparse.Namespace) -> bool:
    if given.yes:
        return True
    if not sys.stdin.isatty():
        raise ImportRefused("Nothing was imported: look at the plan, then give --yes to apply it.")
    return input("Apply this plan? [y/N] ").strip().lower() in {"y", "yes"}


def _conclude(found: Import, files: list[str], given: argparse.Namespace) -> int:
    """Print how an import ended, and return the exit status."""
    for file in files:
        print(f"refused rows, to be mended and imported again: {file}")
    if found.state == "planned":
        if found.problem is not None:
            raise ImportRefused(f"Nothing was imported. {found.problem}")
        print("nothing was imported: this was a dry run" if given.dry_run else "nothing was imported")
        return 0
    if found.state != "done":
        raise ImportRefused(f"The import ended as {found.state}. {found.problem or ''}".strip())
    applied = json.loads(found.plan or "{}").get("applied", {})
    totals = {action: sum(each.get(action, 0) for each in applied["counts"].values()) for action in ACTIONS}
    print(", ".join(f"{totals[action]:,} {word}" for action, word in DONE.items()))
    for code, count in applied["refused"].items():
        print(f"refused: {code}: {count:,}")
    return ROWS_REFUSED if totals["refused"] else 0


DONE: Final = {
    "add": "added",
    "change": "changed",
    "drop": "dropped",
    "unchanged": "unchanged",
    "refused": "refused",
}
