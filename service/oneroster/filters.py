"""The query parameters of OneRoster: which objects, in which order, which of their members, and which page."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from multidict import MultiMapping

from service.oneroster.errors import InvalidParameter
from service.oneroster.fields import DAYS, LISTS, Fields

_CLAUSE: Final = re.compile(r"\s*([A-Za-z][\w.]*)\s*(!=|>=|<=|=|>|<|~)\s*'((?:[^']|'')*)'\s*", re.ASCII)
_OPERATOR: Final = re.compile(r"(AND|OR)(?=\s)", re.IGNORECASE)
_BLANK_OFFSET: Final = re.compile(r"(?<=[0-9]) (?=[0-9]{2}:?[0-9]{2}$)")
"""The blank that a plus sign which was not percent-encoded has become, before the offset of an instant."""

EXAMPLE: Final = "filter=status='active' AND dateLastModified>'2026-09-01T00:00:00Z'"
MILLISECOND: Final = timedelta(milliseconds=1)
MAX_OFFSET: Final = 2**31 - 1
"""The largest offset: OneRoster has numbers of 32 bits."""


@dataclass(frozen=True, slots=True)
class Clause:
    """A comparison of the field at a path with a value."""

    path: str
    operator: str
    value: str


@dataclass(frozen=True, slots=True)
class Filter:
    """Which objects to list. ``exact`` are the values of fields for which there are parameters of the statement.

    ``named`` is a name of a user: what the field must equal that ``condition`` compares.
    """

    nothing: bool = False
    deleted: bool | None = None
    modified_from: datetime | None = None
    modified_until: datetime | None = None
    condition: str | None = None
    named: str | None = None
    exact: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Parameters:
    """The query parameters of a list."""

    limit: int
    offset: int
    filter: Filter
    sort: tuple[str, ...] | None
    descending: bool
    members: frozenset[str] | None
    """The members of each object to return; None for all."""


EVERYTHING: Final = Filter()
NOTHING: Final = Filter(nothing=True)


def read_parameters(
    query: MultiMapping[str], fields: Fields, exact: frozenset[str], named: frozenset[str], max_limit: int
) -> Parameters:
    """Return the parameters of a list; those that OneRoster does not have are ignored.

    ``exact`` and ``named`` are the paths for whose equality the statement of the list has parameters.

    Raises:
        InvalidParameter: a parameter is not valid.
    """
    order = query.get("orderBy", "asc")
    if order.lower() not in {"asc", "desc"}:
        raise InvalidParameter("orderBy must be asc or desc.")
    sort, descending = query.get("sort", ""), order.lower() == "desc"
    if sort not in fields.document - LISTS or (sort == "sourcedId" and not descending):
        sort = ""
    text = query.get("filter", "")
    return Parameters(
        limit=_whole(query, "limit", 100, 1, max_limit),
        offset=_whole(query, "offset", 0, 0, MAX_OFFSET),
        filter=read_filter(text, fields, exact, named) if text.strip() else EVERYTHING,
        sort=tuple(sort.split(".")) if sort else None,
        descending=bool(sort) and descending,
        members=read_members(query, fields),
    )


def _whole(query: MultiMapping[str], name: str, default: int, least: int, most: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    digits = text.strip()
    # Python reads no more than 4,300 digits.
    if (
        not (digits.isascii() and digits.isdigit() and len(digits) <= len(str(most)))
        or not least <= int(digits) <= most
    ):
        raise InvalidParameter(f"{name} must be a whole number from {least} to {most:,}.")
    return int(digits)


def read_members(query: MultiMapping[str], fields: Fields) -> frozenset[str] | None:
    """Return which members of each object to return; None for all.

    Raises:
        InvalidParameter: the objects have no such member.
    """
    names = [name.strip() for text in query.getall("fields", []) for name in text.split(",")]
    for name in names:
        if name and not fields.has_member(name):
            raise InvalidParameter.of_fields(
                f"fields names {_shown(name)}, which these objects do not have: name their members, such as sourcedId,status."
            )
    return frozenset(filter(None, names)) or None


def read_filter(text: str, fields: Fields, exact: frozenset[str], named: frozenset[str]) -> Filter:
    """Return a filter as parameters of the statement that lists the objects.

    Raises:
        InvalidParameter: it is no filter, has more than two clauses, or names a field that the objects do not have.
    """
    clauses, is_or = _clauses_of(text)
    left: list[Clause] = []
    for clause in clauses:
        found = _prepared(clause, fields)
        if isinstance(found, Clause):
            left.append(found)
        elif found is is_or:
            # A clause that is always true decides an OR, one that never is an AND.
            return EVERYTHING if is_or else NOTHING
    if not left:
        return NOTHING if is_or else EVERYTHING
    if is_or and len(left) == 2:
        return Filter(condition=" || ".join(map(_condition, left)))
    found_filter = _Builder(exact, named)
    for clause in left:
        found_filter.add(clause)
    return found_filter.build()


class _Builder:
    """Collects clauses that must all hold."""

    def __init__(self, exact: frozenset[str], named: frozenset[str]) -> None:
        self._paths = exact
        self._names = named
        self._exact: dict[str, str] = {}
        self._deleted: bool | None = None
        self._from: datetime | None = None
        self._until: datetime | None = None
        self._named: str | None = None
        self._conditions: list[str] = []
        self._contradicts = False

    def add(self, clause: Clause) -> None:
        path, operator, value = clause.path, clause.operator, clause.value
        if path == "dateLastModified" and operator in {"=", ">", ">=", "<", "<="}:
            self._add_period(operator, datetime.fromisoformat(value))
        elif path == "status" and operator in {"=", "!="}:
            deleted = (value == "tobedeleted") is (operator == "=")
            self._contradicts |= self._deleted is (not deleted)
            self._deleted = deleted
        elif path in self._paths and operator == "=":
            self._contradicts |= self._exact.get(path, value) != value
            self._exact[path] = value
        else:
            if path in self._names and operator == "=":
                self._named = value
            self._conditions.append(_condition(clause))

    def _add_period(self, operator: str, instant: datetime) -> None:
        # The instants of objects are rounded down to milliseconds.
        if operator in {"=", ">", ">="}:
            begins = instant + MILLISECOND if operator == ">" else instant
            self._from = begins if self._from is None else max(begins, self._from)
        if operator in {"=", "<", "<="}:
            ends = instant if operator == "<" else instant + MILLISECOND
            self._until = ends if self._until is None else min(ends, self._until)

    def build(self) -> Filter:
        """Return the filter of all clauses."""
        if self._contradicts:
            return NOTHING
        condition = " && ".join(self._conditions) or None
        return Filter(
            deleted=self._deleted,
            modified_from=self._from,
            modified_until=self._until,
            condition=condition,
            named=self._named,
            exact=self._exact,
        )


def _clauses_of(text: str) -> tuple[list[Clause], bool]:
    """Return the clauses of a filter, and whether it is enough that one of them holds."""
    clauses: list[Clause] = []
    is_or, place = False, 0
    while True:
        match = _CLAUSE.match(text, place)
        if match is None:
            raise InvalidParameter.of_filter(
                f"filter must be one clause or two with AND or OR between them, each a field, an operator (= != > >= < <= ~) "
                f"and a value in single quotes, as in {EXAMPLE}."
            )
        clauses.append(Clause(match[1], match[2], match[3].replace("''", "'")))
        place = match.end()
        if place == len(text):
            return clauses, is_or
        joined = _OPERATOR.match(text, place)
        if joined is not None and len(clauses) == 2:
            raise InvalidParameter.of_filter(f"filter must have at most two clauses, as in {EXAMPLE}.")
        if joined is None:
            raise InvalidParameter.of_filter(
                f"The clauses of filter must have AND or OR between them, as in {EXAMPLE}."
            )
        is_or, place = joined[1].upper() == "OR", joined.end()


def _prepared(clause: Clause, fields: Fields) -> Clause | bool:
    """Return a clause in the form in which the database compares it, or whether it holds for every object or for none.

    Raises:
        InvalidParameter: the objects have no such field, or the value is no instant.
    """
    path, operator, value = clause.path, clause.operator, clause.value
    if not fields.has(path):
        raise InvalidParameter.of_filter(
            f"filter names the field {_shown(path)}, which these objects do not have: name a field of theirs, such as status "
            "or class.sourcedId."
        )
    if path == "dateLastModified" and operator != "~":
        value = write_filter_instant(value)
    elif path in DAYS and operator != "~":
        value = value[:10]
    if path not in fields.document:
        return _holds(fields.constants.get(path), operator, value)
    if not is_storable(value) or (path == "status" and operator in {"=", "!="} and value not in STATUSES):
        # No object has such a value.
        return operator == "!="
    return Clause(path, operator, value)


STATUSES: Final = frozenset({"active", "tobedeleted"})


def write_filter_instant(text: str) -> str:
    """Return the instant that a filter names, in the form of the objects; without a time or an offset, it is in UTC.

    Raises:
        InvalidParameter: the text is no instant.
    """
    try:
        instant = datetime.fromisoformat(_BLANK_OFFSET.sub("+", text.strip()))
        instant = instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
        _ = instant + MILLISECOND  # A clause may look that far ahead.
    except (ValueError, OverflowError) as error:
        raise InvalidParameter.of_filter(
            "filter must compare dateLastModified with an instant, as in dateLastModified>'2026-09-01T00:00:00Z'."
        ) from error
    return f"{instant.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def is_storable(value: str) -> bool:
    """Return whether the database can hold a text."""
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)


def _holds(actual: str | None, operator: str, value: str) -> bool:
    """Compare a value that all objects share; None if they have none."""
    if actual is None:
        return operator == "!="
    match operator:
        case "=":
            return actual == value
        case "!=":
            return actual != value
        case ">":
            return actual > value
        case ">=":
            return actual >= value
        case "<":
            return actual < value
        case "<=":
            return actual <= value
    return value.lower() in actual.lower()


def _condition(clause: Clause) -> str:
    """Return a clause in the language of SQL/JSON paths, whose strings are those of JSON."""
    path = "".join(f'."{name}"' for name in clause.path.split("."))
    value = json.dumps(clause.value, ensure_ascii=False)
    match clause.operator:
        case "=":
            return f"(${path} == {value})"
        case "!=":
            return f"(!(${path} == {value}))"
        case "~":
            return f'(${path} like_regex {value} flag "iq")'
    return f"(${path} {clause.operator} {value})"


def _shown(text: str) -> str:
    return json.dumps(text[:100])
