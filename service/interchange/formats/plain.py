"""Plain CSV: a file for each kind of row, with external ids as keys and columns in any order."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel

from service.api.courses import NewCourse
from service.api.instructors import NewInstructor
from service.api.students import NewStudent
from service.api.terms import NewTerm
from service.interchange.bundle import Bundle
from service.interchange.formats import cells
from service.interchange.formats.cells import Parse, check_key
from service.interchange.rows import OWN, STATUSES, Kind, Place, Row, Unreadable, Wrong, pair_key
from service.interchange.table import DELIMITERS, Record, read_records

REPORT_COLUMNS: Final = ("error_line", "error_column", "error_code", "error")
"""The columns that a report of refused rows has besides those of the file; an import ignores them."""


def _meetings(text: str, column: str) -> object:
    if not text:
        return []
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Wrong("wrong_type", f"{column} must be a JSON array of meetings, as the API has them.", column) from error


def _status(text: str, column: str) -> str | None:
    if text not in {"", "open", "cancelled"}:
        raise Wrong("not_an_option", f"{column} must be open or cancelled.", column)
    return text or None


@dataclass(frozen=True, slots=True)
class Table:
    """A file of plain CSV: its columns, and those that it can't lack."""

    kind: Kind
    columns: Mapping[str, Parse]
    required: tuple[str, ...]
    key: tuple[str, ...]
    """The columns with the key: the first of them that is not empty, or all of them for a pair."""
    model: type[BaseModel] | None = None
    reference: str | None = None
    """The column that names another row of the kind before it: the term of a course, the whole term of a part."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """The columns of fields that have another name in the API."""


TABLES: Final[Mapping[str, Table]] = {
    "terms.csv": Table(
        "term",
        {
            "code": cells.text,
            "name": cells.text,
            "parent_code": cells.text,
            "starts_on": cells.text,
            "ends_on": cells.text,
            "enroll_from": cells.text,
            "enroll_until": cells.text,
            "drop_until": cells.text,
            "withdraw_until": cells.text,
            "max_credits": cells.number,
        },
        ("code", "name", "starts_on", "ends_on"),
        ("code",),
        NewTerm,
        "parent_code",
    ),
    "courses.csv": Table(
        "course",
        {
            "external_id": cells.text,
            "term_code": cells.text,
            "code": cells.text,
            "section": cells.text,
            "title": cells.text,
            "credits": cells.number,
            "capacity": cells.whole,
            "waitlist_capacity": cells.whole,
            "meetings": _meetings,
            "status": _status,
        },
        ("external_id", "code", "title"),
        ("external_id",),
        NewCourse,
        "term_code",
    ),
    "instructors.csv": Table(
        "instructor",
        {
            "external_id": cells.text,
            "sourced_id": cells.text,
            "given_name": cells.text,
            "family_name": cells.text,
            "email": cells.text,
        },
        ("external_id",),
        ("external_id", "sourced_id"),
        NewInstructor,
    ),
    "students.csv": Table(
        "student",
        {
            "external_id": cells.text,
            "sourced_id": cells.text,
            "given_name": cells.text,
            "family_name": cells.text,
            "preferred_name": cells.text,
            "email": cells.text,
            "max_credits": cells.number,
            "groups": cells.listed,
        },
        ("external_id",),
        ("external_id", "sourced_id"),
        NewStudent,
    ),
    "course_instructors.csv": Table(
        "teaching",
        {"instructor_external_id": cells.text, "course_external_id": cells.text, "primary": cells.truth},
        ("instructor_external_id", "course_external_id"),
        ("instructor_external_id", "course_external_id"),
    ),
    "enrollments.csv": Table(
        "enrollment",
        {
            "student_external_id": cells.text,
            "course_external_id": cells.text,
            "status": cells.text,
            "passed": cells.truth,
            "grade": cells.grade,
        },
        ("student_external_id", "course_external_id"),
        ("student_external_id", "course_external_id"),
    ),
}
"""The files by name, in the order in which their rows refer to each other."""

EMPTY: Final[Mapping[str, object]] = {"credits": 0.0}
"""What an empty cell means where null is no value."""


def is_report(header: Sequence[str]) -> bool:
    """Return whether a file is a report of refused rows: the rows that it lacks are no reason to drop anything."""
    return "error_code" in header


def read(bundle: Bundle, encoding: str | None, complete: set[Kind]) -> Iterator[Row]:
    """Yield the rows of all files; a row that is not valid is refused. Add the kinds to ``complete`` that are listed in full.

    Raises:
        Unreadable: a file can't be read, or its header is wrong.
    """
    names = {name.lower(): name for name in bundle.names}
    found = [(names[name], table) for name, table in TABLES.items() if name in names]
    if not found:
        sentence = f"None of the files is one of {', '.join(TABLES)}, nor is there a manifest.csv of OneRoster."
        raise Unreadable("no_known_file", sentence, Place("the import"))
    for name, table in found:
        with bundle.open(name) as stream:
            rows = read_table(table, name, read_records(stream, name, encoding, DELIMITERS), complete)
            # There are few terms; their parts refer to them.
            yield from sorted(rows, key=lambda row: row.first is not None) if table.kind == "term" else rows


def read_table(table: Table, file: str, records: Iterator[Record], complete: set[Kind]) -> Iterator[Row]:
    """Yield the rows of a file."""
    columns = [cell.lower() for cell in next(records).cells]
    while columns and not columns[-1]:
        columns.pop()
    check_header(table, file, columns)
    given = [column for column in table.columns if column in columns]
    if not is_report(columns):
        complete.add(table.kind)
    for line, values in records:
        place = Place(file, line)
        row = Row(table.kind, "", place)
        try:
            if len(values) < len(columns) or any(values[len(columns) :]):
                sentence = f"The row has {len(values)} cells, and the header has {len(columns)}."
                raise Wrong("wrong_cell_count", sentence)
            fill(row, table, given, dict(zip(columns, values, strict=False)))
        except Wrong as error:
            row.refuse(error)
        yield row


def check_header(table: Table, file: str, columns: Sequence[str]) -> None:
    """Raise ``Unreadable`` if a header has an unknown or a repeated column, or lacks one."""
    place = Place(file, 1)
    for number, column in enumerate(columns, 1):
        if column not in table.columns and column not in REPORT_COLUMNS:
            shown = column[:50] if column.isprintable() and column else f"number {number}"
            sentence = f"The column {shown} is not one of {', '.join(table.columns)}."
            raise Unreadable("unknown_column", sentence, place)
        if columns.index(column) < number - 1:
            raise Unreadable("repeated_column", f"The column {column} appears twice: remove one.", place)
    for column in table.required:
        if column not in columns:
            raise Unreadable("missing_column", f"The column {column} is missing.", place)


def fill(row: Row, table: Table, given: Sequence[str], values: Mapping[str, str]) -> None:
    """Set the key, the references and the fields of a row from the cells of a record.

    Raises:
        Wrong: a cell is not valid.
    """
    if table.model is None:
        row.first, row.second = [check_key(values[column], column) for column in table.key]
        row.key = pair_key(row.first, row.second)
        parsed = {column: table.columns[column](values[column], column) for column in given if column not in table.key}
        row.fields = enrolled(parsed) if row.kind == "enrollment" else {"primary": bool(parsed.get("primary"))}
        return
    keys = [(values[column], column) for column in table.key if values.get(column)]
    row.key = check_key(*(keys[0] if keys else ("", table.key[0])))
    if table.reference is not None and values.get(table.reference):
        row.first = check_key(values[table.reference], table.reference)
    typed: dict[str, Any] = {}
    for column in given:
        if column != table.reference and not (column == "external_id" and OWN.fullmatch(values[column])):
            value = table.columns[column](values[column], column)
            typed[column] = EMPTY.get(column) if value is None else value
    status = typed.pop("status", None)
    names = [column for column in typed if column != "sourced_id" or typed[column]]
    row.fields = cells.fields_of(table.model, {name: typed[name] for name in names}, names, table.renamed)
    if table.reference in given:
        row.fields = {**row.fields, "reference": row.first is not None}
    if status is not None:
        row.fields = {**row.fields, "status": status}


def enrolled(parsed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an enrollment.

    Raises:
        Wrong: they contradict each other.
    """
    status = (parsed.get("status") or "enrolled").lower()
    if status not in STATUSES:
        raise Wrong("not_an_option", f"status must be one of {', '.join(STATUSES)}.", "status")
    passed, grade = parsed.get("passed"), parsed.get("grade")
    if status != "completed":
        if passed is not None or grade is not None:
            column = "grade" if passed is None else "passed"
            raise Wrong("result_without_completion", f"{column} needs the status completed.", column)
        return {"status": status}
    return {"status": status, "passed": passed, "grade": grade}
