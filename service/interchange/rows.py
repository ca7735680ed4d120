"""What the readers of all formats return: rows of a few kinds, and defects."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, get_args

from service.errors import OperatorError
from service.oneroster_ids import read_class_id, read_session_id

Kind: TypeAlias = Literal["term", "course", "instructor", "student", "teaching", "enrollment"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""What a row may describe, in the order in which rows refer to each other. ``teaching`` is an instructor of a course."""

DROPPED_IF_MISSING: Final[tuple[Kind, ...]] = ("teaching", "enrollment")
"""The kinds of which a bulk file lists all rows of its source. The others stay if it does not list them."""

Status: TypeAlias = Literal["enrolled", "completed", "dropped", "withdrawn"]
STATUSES: Final[tuple[Status, ...]] = get_args(Status)

MAX_KEY: Final = 255
"""The longest key: that of a sourced id."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where something is in the files: the line and the column count from 1; 0 is the whole file."""

    file: str
    line: int = 0
    column: str = ""

    def __str__(self) -> str:
        parts = [self.file, f"line {self.line}" if self.line else "", f"column {self.column}" if self.column else ""]
        return ", ".join(filter(None, parts))


class Unreadable(OperatorError):
    """The files can't be read any further; nothing is imported."""

    def __init__(self, code: str, sentence: str, place: Place) -> None:
        super().__init__(f"{place}: {code}: {sentence}")
        self.code, self.sentence, self.place = code, sentence, place


class Wrong(Exception):
    """A row is refused: one of its columns is wrong."""

    def __init__(self, code: str, sentence: str, column: str = "") -> None:
        super().__init__(sentence)
        self.code, self.sentence, self.column = code, sentence, column


@dataclass(slots=True)
class Row:
    """A row of a file.

    ``key`` identifies it among the rows of its kind and source; a row without a key is too defective to have one.
    ``first`` and ``second`` are the keys of the rows to which it refers: the parent of a term; the term of a course; the
    student and the course of an enrollment; the instructor and the course of a teaching. ``fields`` are the fields that
    the file gives, as the API has them; the others stay as they are. ``removed`` asks for its end.
    """

    kind: Kind
    key: str
    place: Place
    first: str | None = None
    second: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    removed: bool = False
    code: str | None = None
    """Why the row is refused; None if it is not."""
    detail: str | None = None

    def refuse(self, wrong: Wrong) -> "Row":
        """Return the row, refused."""
        self.code, self.detail = wrong.code, wrong.sentence
        self.place = Place(self.place.file, self.place.line, wrong.column)
        return self

    @property
    def json(self) -> str:
        """The fields as JSON."""
        return json.dumps(self.fields, ensure_ascii=False, separators=(",", ":"))


OWN: Final = re.compile(r"([a-z0-9-]+)@([0-9a-f]{16})")
"""The key of a row of ours in an export, with the mark of the institution; another institution's names none of ours."""


def own_key(sourced_id: str, mark: str) -> str:
    """Return the key of a row of ours that has no external id."""
    return f"{sourced_id}@{mark}"


def own_id(kind: Kind, key: str, mark: str) -> int | None:
    """Return the id of a course or a term of ours by its key in an export; None if the key is none of this institution."""
    found = OWN.fullmatch(key)
    if found is None or found[2] != mark:
        return None
    if kind == "course":
        return read_class_id(found[1])
    session = read_session_id(found[1]) if kind == "term" else None
    return None if session is None or session.type != "term" else session.id


def pair_key(first: str, second: str) -> str:
    """Return the key of a row that belongs to two others; no key contains a tab."""
    return f"{first}\t{second}"
