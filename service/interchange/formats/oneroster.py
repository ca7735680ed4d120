"""OneRoster CSV 1.1 and 1.2, bulk and delta: what its files mean for terms, courses, people and enrollments."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, TypeAdapter, ValidationError

from service.api.courses import NewCourse
from service.api.fields import CourseCode, ExternalId
from service.api.instructors import NewInstructor
from service.api.students import NewStudent
from service.api.terms import NewTerm
from service.interchange.bundle import Bundle
from service.interchange.formats import cells
from service.interchange.formats.cells import check_key
from service.interchange.rows import Kind, Place, Row, Unreadable, Wrong, own_key, pair_key
from service.interchange.table import read_records
from service.oneroster_ids import NO_TERM, read_class_id, read_session_id

MANIFEST: Final = "manifest.csv"
REPORT_COLUMNS: Final = ("metadata.errorCode", "metadata.error")
"""The columns that a report of refused rows has after those of the file."""

BASE: Final = ("sourcedId", "status", "dateLastModified")
HEADERS_1_1: Final[Mapping[str, tuple[str, ...]]] = {
    "academicSessions": (*BASE, "title", "type", "startDate", "endDate", "parentSourcedId", "schoolYear"),
    "orgs": (*BASE, "name", "type", "identifier", "parentSourcedId"),
    "courses": (
        *(*BASE, "schoolYearSourcedId", "title", "courseCode", "grades", "orgSourcedId", "subjects", "subjectCodes"),
    ),
    "classes": (
        *(*BASE, "title", "grades", "courseSourcedId", "classCode", "classType", "location", "schoolSourcedId"),
        *("termSourcedIds", "subjects", "subjectCodes", "periods"),
    ),
    "users": (
        *(*BASE, "enabledUser", "orgSourcedIds", "role", "username", "userIds", "givenName", "familyName"),
        *("middleName", "identifier", "email", "sms", "phone", "agentSourcedIds", "grades", "password"),
    ),
    "enrollments": (
        *(*BASE, "classSourcedId", "schoolSourcedId", "userSourcedId", "role", "primary", "beginDate", "endDate"),
    ),
}
HEADERS_1_2: Final[Mapping[str, tuple[str, ...]]] = {
    **HEADERS_1_1,
    "users": (
        *(*BASE, "enabledUser", "username", "userIds", "givenName", "familyName", "middleName", "identifier"),
        *("email", "sms", "phone", "agentSourcedIds", "grades", "password", "userMasterIdentifier"),
        *("resourceSourcedIds", "preferredGivenName", "preferredMiddleName", "preferredFamilyName"),
        *("primaryOrgSourcedId", "pronouns"),
    ),
    "roles": (
        *(*BASE, "userSourcedId", "roleType", "role", "beginDate", "endDate", "orgSourcedId"),
        "userProfileSourcedId",
    ),
}
HEADERS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {"1.1": HEADERS_1_1, "1.2": HEADERS_1_2}
"""The columns of the files that we read or write, in their order, by version."""

FILES: Final[Mapping[str, tuple[str, ...]]] = {
    "1.1": (
        *("academicSessions", "categories", "classes", "classResources", "courses", "courseResources", "demographics"),
        *("enrollments", "lineItems", "orgs", "resources", "results", "users"),
    ),
    "1.2": (
        *("academicSessions", "categories", "classes", "classResources", "courses", "courseResources", "demographics"),
        *("enrollments", "lineItemLearningObjectiveIds", "lineItems", "lineItemScoreScales", "orgs", "resources"),
        *("resultLearningObjectiveIds", "results", "resultScoreScales", "roles", "scoreScales", "userProfiles"),
        *("userResources", "users"),
    ),
}
"""The files that a manifest names, by version."""

NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    "academicSessions": ("title", "type", "startDate", "endDate"),
    "courses": ("title",),
    "classes": ("title", "courseSourcedId", "termSourcedIds"),
    "roles": ("userSourcedId", "role"),
    "users": ("givenName", "familyName"),
    "enrollments": ("classSourcedId", "userSourcedId", "role"),
}
"""The files that we read, with the columns, besides the sourcedId, without which they say nothing."""

MAX_DEPTH: Final = 10
"""More levels of sessions than any school year has; a cycle ends here."""

SESSION_TYPES: Final = ("term", "semester", "schoolYear", "gradingPeriod")
CODE: Final[TypeAdapter[str]] = TypeAdapter(CourseCode)
EXTERNAL_ID: Final[TypeAdapter[str]] = TypeAdapter(ExternalId)


class Session(NamedTuple):
    """An academic session, so far as classes need it."""

    type: str
    parent: str
    title: str


@dataclass(slots=True)
class Manifest:
    """What a manifest says: the version, whether each file is bulk or delta, and the system that wrote it."""

    version: str
    modes: dict[str, str]
    system: str


@dataclass(slots=True)
class Reader:
    """Reads a bundle. Sessions, courses and the roles of users are in memory: other files refer to them."""

    bundle: Bundle
    encoding: str | None
    mark: str
    """The mark of the institution, by which it recognizes its own exports."""
    warnings: Counter[tuple[str, str]]
    """How often something harmless was found, by file and code."""
    complete: set[Kind]
    """The kinds of which the bundle lists all rows."""
    manifest: Manifest = field(init=False)
    _sessions: dict[str, Session] = field(default_factory=dict)
    _courses: dict[str, str] = field(default_factory=dict)
    """The codes of courses."""
    _roles: dict[str, str] = field(default_factory=dict)

    def rows(self) -> Iterator[Row]:
        """Yield the rows of all files; a row that is not valid is refused.

        Raises:
            Unreadable: a file can't be read, or the manifest or a header is wrong.
        """
        self.manifest = read_manifest(self.bundle, self.encoding, self.warnings)
        terms = [*self._read("academicSessions", self._term)]
        for row in terms:
            row.first = None if row.first is None else self._whole_term(row.first)
            if row.fields:
                row.fields = {**row.fields, "reference": row.first is not None}
        yield from sorted(terms, key=lambda row: row.first is not None)
        yield from self._read("courses", self._course)
        yield from self._read("classes", self._class)
        if self.manifest.version == "1.2":
            yield from self._read("roles", self._role)
        yield from self._read("users", self._user)
        yield from self._read("enrollments", self._enrollment)

    @property
    def is_own(self) -> bool:
        """Whether this institution wrote the bundle."""
        return self.manifest.system == self.mark

    def _read(self, name: str, convert: Callable[[Row, Mapping[str, str]], bool]) -> Iterator[Row]:
        if (mode := self.manifest.modes.get(name, "absent")) == "absent":
            return
        file = f"{name}.csv"
        with self.bundle.open(file) as stream:
            records = read_records(stream, file, self.encoding)
            columns = self._header(name, next(records).cells)
            if name == "enrollments" and mode == "bulk" and REPORT_COLUMNS[0] not in columns:
                self.complete |= {"teaching", "enrollment"}
            for line, values in records:
                row = Row("term", "", Place(file, line))
                try:
                    if len(values) < len(columns) or any(values[len(columns) :]):
                        sentence = f"The row has {len(values)} cells, and the header has {len(columns)}."
                        raise Wrong("wrong_cell_count", sentence)
                    if len(values) > len(columns):
                        self.warnings[file, "blank_trailing_cells"] += 1
                    cell = dict(zip(columns, values, strict=False))
                    row.key = check_key(cell["sourcedId"], "sourcedId")
                    row.removed = self._is_removed(cell, mode, file)
                    keep = convert(row, cell)
                except Wrong as error:
                    row.kind = KIND_OF_FILE[name]
                    row.refuse(error)
                    keep = True
                if keep:
                    yield row

    def _header(self, name: str, columns: list[str]) -> list[str]:
        file, known = f"{name}.csv", HEADERS[self.manifest.version][name]
        while columns and not columns[-1]:
            columns.pop()
        for column in ("sourcedId", *NEEDED[name]):
            if column not in columns:
                close = next((each for each in columns if each.lower() == column.lower()), None)
                instead = "" if close is None else f" It is there as {close}: write it exactly."
                raise Unreadable("missing_column", f"The column {column} is missing.{instead}", Place(file, 1))
        if len({*columns}) < len(columns):
            twice = next(each for each in columns if columns.count(each) > 1)
            raise Unreadable("repeated_column", f"The column {twice[:50]!r} appears twice: remove one.", Place(file, 1))
        if tuple(each for each in columns if not each.startswith("metadata.")) != known:
            self.warnings[file, "unusual_header"] += 1
        return columns

    def _is_removed(self, cell: Mapping[str, str], mode: str, file: str) -> bool:
        status = cell.get("status", "")
        if mode == "delta":
            if not status:
                raise Wrong("required", "status is required in a delta file: active or tobedeleted.", "status")
            if not cell.get("dateLastModified"):
                self.warnings[file, "no_date_last_modified"] += 1
        elif status:
            self.warnings[file, "status_in_bulk_file"] += 1
        if status not in {"", "active", "tobedeleted"}:
            raise Wrong("not_an_option", "status must be active or tobedeleted.", "status")
        return status == "tobedeleted"

    def _term(self, row: Row, cell: Mapping[str, str]) -> bool:
        """Convert an academic session; return whether it is a term."""
        row.kind, id, type = "term", row.key, cell["type"]
        row.key = self._own(id)
        if row.removed:
            return type not in {"schoolYear", "gradingPeriod"}
        if type not in SESSION_TYPES:
            raise Wrong("not_an_option", f"type must be one of {', '.join(SESSION_TYPES)}.", "type")
        parent, title = cell.get("parentSourcedId", ""), cell["title"]
        taken = {session.title.lower() for session in self._sessions.values()}
        self._sessions[id] = Session(type, parent, title)
        if type in {"schoolYear", "gradingPeriod"}:
            return False
        row.first = parent or None
        titles = [title, f"{title} {cell.get('schoolYear', '')}".strip(), id]
        code = next((each for each in titles if each.lower() not in taken and is_valid(CODE, each)), id[:50])
        values = {
            "code": code,
            "name": title,
            "starts_on": cell["startDate"],
            "ends_on": day_before(cell["endDate"], "endDate"),
        }
        fields = cells.fields_of(
            NewTerm, values, [*values], {"name": "title", "starts_on": "startDate", "ends_on": "endDate"}
        )
        new = {"code": fields.pop("code")}
        row.fields = {**fields, "new": new}
        return True

    def _whole_term(self, id: str) -> str | None:
        """Return the key of the outermost term of which this one is a part or the whole; None if it is a school year."""
        whole: str | None = None
        for _ in range(MAX_DEPTH):
            session = self._sessions.get(id)
            if session is not None and session.type not in {"term", "semester"}:
                break
            whole = self._own(id)
            if session is None or not session.parent:
                break
            id = session.parent
        return whole

    def _course(self, row: Row, cell: Mapping[str, str]) -> bool:
        """Keep the code of a course, which its classes have; it is no row of its own."""
        row.kind = "course"
        self._courses[row.key] = cell.get("courseCode", "")
        return False

    def _class(self, row: Row, cell: Mapping[str, str]) -> bool:
        row.kind, id = "course", row.key
        row.key = self._own(id)
        if row.removed:
            return True
        course_id, class_code = cell["courseSourcedId"], cell.get("classCode", "")
        if (
            "courses" in self.manifest.modes
            and self.manifest.modes["courses"] == "bulk"
            and course_id not in self._courses
        ):
            raise Wrong("unknown_course", "courses.csv has no course with this sourcedId.", "courseSourcedId")
        row.first = self._term_of(cell["termSourcedIds"])
        code = self._courses.get(course_id)
        values: dict[str, Any] = {"title": cell["title"]}
        if code is not None or class_code:
            values["code"] = code or class_code
            values["section"] = section_of(values["code"], class_code)
        given = [*values]
        renamed = {"code": "classCode" if not code else "courseSourcedId", "section": "classCode"}
        fields = cells.fields_of(NewCourse, {"code": "-", **values}, given, renamed)
        new = {"external_id": id} if read_class_id(id) is None and is_valid(EXTERNAL_ID, id) else {}
        row.fields = {**fields, "reference": row.first is not None, "new": new}
        return True

    def _term_of(self, text: str) -> str | None:
        """Return the key of the one term among the sessions of a class, or None for a class of a whole school year."""
        found: dict[str, None] = {}
        for id in cells.listed(text, "termSourcedIds"):
            session = self._sessions.get(id)
            if session is not None and session.type == "gradingPeriod":
                id, session = session.parent, self._sessions.get(session.parent)  # noqa: PLW2901 - its term instead
            if id == NO_TERM or (session is not None and session.type == "schoolYear"):
                continue
            if session is None and self.manifest.modes.get("academicSessions") == "bulk":
                raise Wrong(
                    "unknown_term", "academicSessions.csv has no session with this sourcedId.", "termSourcedIds"
                )
            found[id] = None
        whole = [id for id in found if (session := self._sessions.get(id)) is None or session.parent not in found]
        if len(whole) > 1:
            raise Wrong(
                "several_terms", "A class takes place in one term: split it into one for each.", "termSourcedIds"
            )
        return self._own(whole[0]) if whole else None

    def _role(self, row: Row, cell: Mapping[str, str]) -> bool:
        """Keep the role of a user: student or teacher, by the primary one if there are both; it is no row of its own."""
        user, role = cell["userSourcedId"], cell["role"]
        row.kind = "student"
        if row.removed:
            return False
        known = self._roles.get(user)
        if role in {"student", "teacher"}:
            if known in {"student", "teacher"} and known != role:
                self.warnings["roles.csv", "student_and_teacher"] += 1
            if known not in {"student", "teacher"} or cell.get("roleType") == "primary":
                self._roles[user] = role
        elif known is None:
            self._roles[user] = "other"
        return False

    def _user(self, row: Row, cell: Mapping[str, str]) -> bool:
        role = cell.get("role") if self.manifest.version == "1.1" else self._roles.get(row.key)
        row.kind = "instructor" if role == "teacher" else "student"
        if role is None:
            raise Wrong("no_role", "The user has no role: give one in roles.csv.", "sourcedId")
        if role not in {"student", "teacher"}:
            self.warnings["users.csv", "other_role"] += 1
            return False
        if row.removed:
            return True
        values: dict[str, Any] = {
            "given_name": cell["givenName"] or None,
            "family_name": cell["familyName"] or None,
        }
        if "email" in cell:
            values["email"] = cell["email"] or None
        if "preferredGivenName" in cell and role == "student":
            values["preferred_name"] = cell["preferredGivenName"] or None
        identifier = cell.get("identifier", "")
        if identifier not in {"", row.key} and is_valid(EXTERNAL_ID, identifier):
            values["external_id"] = identifier
        elif identifier not in {"", row.key}:
            self.warnings["users.csv", "identifier_ignored"] += 1
        model: type[BaseModel] = NewInstructor if role == "teacher" else NewStudent
        new = {"sourced_id": row.key}
        fields = cells.fields_of(model, {**values, **new}, [*values], USER_COLUMNS)
        row.fields = {**fields, "new": new}
        return True

    def _enrollment(self, row: Row, cell: Mapping[str, str]) -> bool:
        role = cell["role"]
        if role not in {"student", "teacher"}:
            self.warnings["enrollments.csv", "other_role"] += 1
            return False
        row.kind = "teaching" if role == "teacher" else "enrollment"
        row.first = check_key(cell["userSourcedId"], "userSourcedId")
        row.second = self._own(check_key(cell["classSourcedId"], "classSourcedId"))
        row.key = pair_key(row.first, row.second)
        if row.kind == "teaching":
            row.fields = {"primary": bool(cells.truth(cell.get("primary", ""), "primary"))}
        else:
            row.fields = {"status": "left" if row.removed else "active"}
        return True

    def _own(self, id: str) -> str:
        """Return the key of a session or a class; one of ours has the mark of the institution."""
        if self.is_own and (read_class_id(id) is not None or read_session_id(id) is not None):
            return own_key(id, self.mark)
        return id


USER_COLUMNS: Final = {
    "given_name": "givenName",
    "family_name": "familyName",
    "preferred_name": "preferredGivenName",
    "external_id": "identifier",
    "sourced_id": "sourcedId",
}
KIND_OF_FILE: Final[Mapping[str, Kind]] = {
    "academicSessions": "term",
    "courses": "course",
    "classes": "course",
    "roles": "student",
    "users": "student",
    "enrollments": "enrollment",
}
"""The kind under which the refused rows of a file are counted, if the row itself does not tell."""


def read_manifest(bundle: Bundle, encoding: str | None, warnings: Counter[tuple[str, str]]) -> Manifest:
    """Read the manifest of a bundle and compare it with the files.

    Raises:
        Unreadable: the manifest is wrong, or differs from the files.
    """
    with bundle.open(MANIFEST) as stream:
        records = read_records(stream, MANIFEST, encoding)
        if [cell.lower() for cell in next(records).cells[:2]] != ["propertyname", "value"]:
            raise wrong_manifest("The header must be propertyName,value.", 1)
        properties: dict[str, tuple[int, str]] = {}
        for line, values in records:
            if len(values) < 2 or any(values[2:]):
                raise wrong_manifest("Each row must have a property and a value.", line)
            properties[values[0]] = line, values[1]
    line, version = properties.get("oneroster.version", (0, ""))
    version = ".".join(version.split(".")[:2])
    if version not in FILES:
        raise wrong_manifest("oneroster.version must be 1.1 or 1.2.", line)
    modes: dict[str, str] = {}
    for name in FILES[version]:
        line, mode = properties.get(f"file.{name}", (0, "absent"))
        mode = mode.lower()
        if mode not in {"absent", "bulk", "delta"}:
            raise wrong_manifest(f"file.{name} must be absent, bulk or delta.", line)
        if mode != "absent" and f"{name}.csv" not in bundle.names:
            raise Unreadable(
                "missing_file", f"The manifest names {name}.csv as {mode}, and it is missing.", Place(MANIFEST, line)
            )
        if mode == "absent" and f"{name}.csv" in bundle.names:
            sentence = f"The file {name}.csv is there, and the manifest does not name it as bulk or delta."
            raise Unreadable("file_not_in_manifest", sentence, Place(MANIFEST, line))
        modes[name] = mode
    for name in bundle.names - {MANIFEST, *(f"{each}.csv" for each in FILES[version])}:
        warnings[name, "unknown_file"] += 1
    return Manifest(version, modes, properties.get("source.systemCode", (0, ""))[1])


def wrong_manifest(sentence: str, line: int) -> Unreadable:
    """Return the error of a manifest."""
    return Unreadable("wrong_manifest", sentence, Place(MANIFEST, line))


def is_valid(adapter: TypeAdapter[str], text: str) -> bool:
    """Return whether a text is valid for a field."""
    try:
        adapter.validate_python(text)
    except ValidationError:
        return False
    return True


def section_of(code: str, class_code: str) -> str | None:
    """Return the section that the code of a class adds to the code of its course, or None."""
    if class_code.lower() in {"", code.lower()}:
        return None
    rest = class_code[len(code) :].lstrip(" -_./") if class_code.lower().startswith(code.lower()) else class_code
    return rest or None


def day_before(text: str, column: str) -> str:
    """Return the last day of a session, whose end is the day after it."""
    try:
        return str(date.fromisoformat(text[:10]) - timedelta(days=1))
    except (ValueError, OverflowError) as error:
        raise Wrong("not_a_date", f"{column} must be a date, such as 2026-12-19.", column) from error
