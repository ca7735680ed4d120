"""The report of refused rows: files that can be mended and imported again, and one table of what is wrong."""

import csv
import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

from service.database import Database
from service.interchange.bundle import Bundle, open_bundle
from service.interchange.formats import oneroster, plain
from service.interchange.table import DELIMITERS, read_records
from service.settings import Settings
from sql.imports import ImportRow, list_rows_by_action

PAGE_ROWS: Final = 1_000
MAX_REPORTED: Final = 100_000
"""More rows than anybody mends by hand, in about 50 MB of memory."""

ERROR_COLUMNS: Final = ("file", "line", "column", "kind", "key", "code", "detail")

CONTEXT: Final = ("academicSessions", "courses", "roles", "orgs")
"""The files of OneRoster that others need to be understood."""


async def refused_rows(database: Database, import_id: int) -> AsyncIterator[list[ImportRow]]:
    """Yield the refused rows of an import in pages."""
    kind, number = "", 0
    while True:
        async with database.reading() as connection:
            page = await list_rows_by_action(
                connection, import_id, action="refused", after_kind=kind, after=number, limit=PAGE_ROWS
            )
        if not page:
            return
        kind, number = page[-1].kind, page[-1].number
        yield page


def error_cells(row: ImportRow) -> tuple[object, ...]:
    """Return a refused row as the cells of ``ERROR_COLUMNS``."""
    key = row.key.replace("\t", " ")
    return tuple(map(harmless, (row.file, row.line, row.file_column, row.kind, key, row.code, row.detail)))


def harmless(cell: object) -> object:
    """Return a cell that a spreadsheet does not take for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in {"=", "+", "-", "@", "\t", "\r"} else cell


async def write_report(
    database: Database, settings: Settings, import_id: int, *, path: Path, encoding: str | None, folder: Path
) -> list[Path]:
    """Write the refused rows of an import into a folder, with the files' own columns and what is wrong; return the files."""
    refused: dict[str, dict[int, ImportRow]] = {}
    count = 0
    async for page in refused_rows(database, import_id):
        for row in page:
            if row.line and count < MAX_REPORTED:
                refused.setdefault(row.file, {})[row.line] = row
                count += 1
    if not refused:
        return []
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open_bundle(path, None, settings.import_unpacked) as bundle:
        written = [_write_rows(bundle, encoding, name, rows, folder) for name, rows in refused.items()]
        if oneroster.MANIFEST in bundle.names:
            written += _write_context(bundle, encoding, {*refused}, folder)
    return written


def _write_rows(bundle: Bundle, encoding: str | None, name: str, rows: Mapping[int, ImportRow], folder: Path) -> Path:
    """Write the refused rows of one file."""
    is_plain = oneroster.MANIFEST not in bundle.names
    added = plain.REPORT_COLUMNS if is_plain else oneroster.REPORT_COLUMNS
    path = folder / name
    with bundle.open(name) as stream, path.open("w", encoding="utf-8", newline="") as file:
        records = read_records(stream, name, encoding, DELIMITERS if is_plain else (",",))
        writer = csv.writer(file)
        header = next(records).cells
        kept = [number for number, column in enumerate(header) if column and column not in added]
        writer.writerow([*(header[number] for number in kept), *added])
        for line, cells in records:
            if (row := rows.get(line)) is not None:
                errors = (line, row.file_column, row.code, row.detail) if is_plain else (row.code, row.detail)
                shown = [cells[number] if number < len(cells) else "" for number in kept]
                writer.writerow([*shown, *errors])
    path.chmod(0o600)
    return path


def _write_context(bundle: Bundle, encoding: str | None, refused: set[str], folder: Path) -> list[Path]:
    """Write a manifest, and the files that the refused rows need to be understood."""
    written = []
    for name in CONTEXT:
        file = f"{name}.csv"
        if file in bundle.names and file not in refused:
            with bundle.open(file) as source, (folder / file).open("wb") as target:
                shutil.copyfileobj(source, target)
            written.append(folder / file)
    present = {path.name for path in written} | refused
    path = folder / oneroster.MANIFEST
    with bundle.open(oneroster.MANIFEST) as stream, path.open("w", encoding="utf-8", newline="") as file_:
        writer = csv.writer(file_)
        for _, (name, value, *_) in read_records(stream, oneroster.MANIFEST, encoding):
            is_absent = name.startswith("file.") and f"{name.removeprefix('file.')}.csv" not in present
            writer.writerow([name, "absent" if is_absent else value])
    return [*written, path]
