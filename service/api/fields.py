"""Field types shared by request models."""

import re
from datetime import UTC, date, datetime
from functools import partial
from typing import Annotated, Final

from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
)

from service.errors import Detail
from service.web.paging import Digits
from service.web.problems import invalid
from service.web.text import (
    CODE_PATTERN,
    EXTERNAL_ID_PATTERN,
    GROUP_PATTERN,
    LINE_PATTERN,
    SOURCED_ID_PATTERN,
    check_line,
    check_sourced_id,
    normalize_code,
    normalize_external_id,
    normalize_group,
)
from service.web.validation import CODES, wrong

FIELD_CODES: Final = {
    **CODES,
    "not_ids": "The string is not 1 to 100 ids, separated by commas.",
    "not_statuses": "The string is not statuses of an enrollment, separated by commas.",
    "not_event_types": "The string is not types of events, separated by commas.",
    "not_an_email": "The string is not one e-mail address.",
    "not_a_time": "The string is not a time of day in the form HH:MM.",
    "read_only": "A read-only member differs from the stored value.",
    "blank": "A string has no visible character.",
    "forbidden_character": "A string has a forbidden character, such as a line break or a control character.",
    "invalid_name": "The name of an institution is not 1 to 50 lower-case letters, digits and hyphens.",
    "unknown_time_zone": "The string is not the IANA name of a time zone.",
    "empty_meeting": "A meeting ends when it starts.",
    "repeated_instructor": "An instructor appears twice among those of a course.",
    "one_primary": "The instructors of a course do not have exactly one primary among them.",
    "repeated_group": "The reservations of a course name a group twice.",
    "repeated_code": "A set of equivalent codes has a code twice, without regard to case.",
    "repeated_grade": "A grade scale has a grade twice.",
    "min_grade_of_pre": "A group of requirements that is not of the kind `pre` has a `min_grade`.",
    "in_progress_of_pre": "A group of requirements that is not of the kind `pre` has `in_progress`.",
    "hold_dates": "A hold begins after it ends.",
    "swap_with_itself": "A course appears both in `drop` and in `add`.",
    "too_many_adds": "A swap with `on_full: waitlist` has more than one course to add.",
    "too_many_pairs": "The items have more than 2,000 courses in total.",
    "ids_or_external_ids": "An item has neither ids nor external ids, or both.",
    "repeated_external_id": "Two items have the same external id.",
}
"""The error codes of invalid requests, each with its meaning. The documents list them."""

MAX_BIGINT = 2**63 - 1
"""The largest bigint of PostgreSQL. Validation refuses larger numbers, which the driver cannot encode."""

MAX_EXACT_FLOAT = 2**53
"""Up to this limit, a float represents every whole number exactly (RFC 8259 section 6)."""


def _whole(value: object) -> object:
    """Convert 3.0 to 3, which JSON Schema treats as equal, if the float is exact."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_EXACT_FLOAT else value


def _hundredths(value: float) -> float:
    """Refuse a number with more than two decimals. Pydantic's ``multiple_of`` accepts 3.0000000001, and refuses 0.57."""
    if round(value, 2) != value:
        raise wrong("not_a_multiple", "{field} must have at most two decimals, such as 1.25.")
    return value


def _rfc_3339(value: object) -> object:
    """Accept RFC 3339 text only, and cut it to microseconds; Pydantic also accepts a number of seconds."""
    match = RFC_3339.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise wrong("not_an_instant", "{field} must be an instant with an offset, such as 2026-09-01T08:00:00Z.")
    seconds, fraction, offset = match.groups("")
    return f"{seconds}{fraction[:7]}{offset}"


def _iso_day(value: object) -> object:
    """Accept ISO 8601 text only; Pydantic also accepts numbers."""
    if not isinstance(value, str) or not ISO_DAY.fullmatch(value):
        raise wrong("not_a_date", "{field} must be a date, such as 2026-09-01.")
    return value


def _clock(value: str) -> str:
    if not CLOCK.fullmatch(value):
        raise wrong("not_a_time", "{field} must be a time of day from 00:00 to 23:59, such as 09:30.")
    return value


def _clock_of_end(value: str) -> str:
    if value != MIDNIGHT and not CLOCK.fullmatch(value):
        raise wrong("not_a_time", "{field} must be a time of day from 00:00 to 24:00, such as 10:45.")
    return value


def _email(value: str) -> str:
    """Return an address in Unicode's normal form C, with its domain in lower case and in its own script."""
    try:
        return validate_email(value, check_deliverability=False, globally_deliverable=False).normalized
    except EmailNotValidError as error:
        raise wrong("not_an_email", "{field} must be one e-mail address, such as ada@campus.example.") from error


# The service sends no mail, so that domains reserved for tests, examples and local networks are valid too.
SPECIAL_USE_DOMAIN_NAMES.clear()

RFC_3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
ISO_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
CLOCK = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")
MIDNIGHT: Final = "24:00"
"""The end of a day."""

Whole = BeforeValidator(_whole)

IdInBody = Annotated[int, Field(ge=1, le=MAX_BIGINT), Whole]
IdInQuery = Annotated[int, Field(ge=1, le=MAX_BIGINT), Digits]
IdInPath = Annotated[int, Field(ge=1, le=MAX_BIGINT, description="Id assigned by the service.", examples=[1]), Digits]

Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200),
    AfterValidator(check_line),
    Field(json_schema_extra={"pattern": LINE_PATTERN}),
]
"""A line of text with a visible character and without control characters."""

ExternalId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200),
    AfterValidator(partial(normalize_external_id, max_length=200)),
    Field(
        description="The caller's own key, in any script. It is part of paths: it must not contain spaces or "
        "consist of dots alone.",
        json_schema_extra={"pattern": EXTERNAL_ID_PATTERN},
    ),
]
SourcedId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=255),
    AfterValidator(check_sourced_id),
    Field(
        description="The key of a person for other programs: no other student or instructor has it, and it never changes. "
        "Give it when you create the person, or let the service generate a UUID.",
        json_schema_extra={"pattern": SOURCED_ID_PATTERN},
    ),
]
Email = Annotated[
    str,
    StringConstraints(min_length=3, max_length=254),
    AfterValidator(_email),
    Field(
        description="Unique; the case of ASCII letters is ignored. The service sends no mail.",
        json_schema_extra={"format": "idn-email"},
    ),
]
Group = Annotated[
    str,
    StringConstraints(min_length=1, max_length=100),
    AfterValidator(partial(normalize_group, max_length=100)),
    Field(
        description='A group such as "major:physics" or "year:2": letters, marks, digits, punctuation and symbols of any '
        "script, without commas, with single spaces inside. Groups are compared exactly.",
        json_schema_extra={"pattern": GROUP_PATTERN},
    ),
]
CourseCode = Annotated[
    str,
    StringConstraints(min_length=1, max_length=50),
    AfterValidator(partial(normalize_code, max_length=50)),
    Field(
        description='The catalogue code, such as "MATH101", in any script, with single spaces inside. '
        "Codes are compared without regard to case.",
        json_schema_extra={"pattern": CODE_PATTERN},
    ),
]
Section = Annotated[
    str,
    StringConstraints(min_length=1, max_length=20),
    AfterValidator(partial(normalize_code, max_length=20)),
    Field(
        description='Distinguishes the offerings of a code in a term, such as "001". Sections are compared without '
        "regard to case.",
        json_schema_extra={"pattern": CODE_PATTERN},
    ),
]
Credits = Annotated[
    float,
    Field(ge=0, le=99, allow_inf_nan=False, description="Credits from 0 to 99, with at most two decimals."),
    AfterValidator(_hundredths),
    PlainSerializer(lambda value: int(value) if value == int(value) else value),
    # No "multipleOf": many readers divide by 0.01 in binary fractions, and refuse 0.57.
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 99}),
]
Count = Annotated[int, Field(ge=0, le=MAX_BIGINT), Whole]
Capacity = Annotated[
    int, Field(ge=0, le=MAX_BIGINT, description="Number of seats; null is unlimited, and 0 closes the course."), Whole
]


WaitlistCapacity = Annotated[
    int,
    Field(ge=0, le=MAX_BIGINT, description="Number of waitlist places; null is unlimited, and 0 is no waitlist."),
    Whole,
]
CreditLimit = Annotated[
    float,
    Field(
        ge=0,
        le=999,
        allow_inf_nan=False,
        description="Maximum number of credits in one term, with at most two decimals.",
    ),
    AfterValidator(_hundredths),
    PlainSerializer(lambda value: int(value) if value == int(value) else value),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 999}),
]
Clock = Annotated[str, AfterValidator(_clock), Field(json_schema_extra={"pattern": f"^{CLOCK.pattern}$"})]
"""A time of day as HH:MM, in the local time of the institution."""
ClockOfEnd = Annotated[
    str, AfterValidator(_clock_of_end), Field(json_schema_extra={"pattern": f"^({CLOCK.pattern}|{MIDNIGHT})$"})
]
"""A time of day as HH:MM, or the end of the day."""


def _in_utc(value: datetime) -> datetime:
    """Convert an instant to UTC; refuse instants that PostgreSQL and Python represent differently."""
    try:
        instant = value.astimezone(UTC)
    except OverflowError as error:
        raise wrong("not_an_instant", "{field} must be within the years 1 to 9999 in UTC.") from error
    # The driver converts the first and the last instant to PostgreSQL's infinities, and reads these without an offset.
    if instant in {datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)}:
        raise wrong("not_an_instant", "{field} must not be the first or the last instant of the calendar.")
    return instant


Instant = Annotated[
    datetime,
    Field(strict=False, description="An RFC 3339 instant, such as 2026-09-01T08:00:00Z."),
    BeforeValidator(_rfc_3339),
    AfterValidator(_in_utc),
]
Day = Annotated[date, Field(strict=False, description="A date as YYYY-MM-DD."), BeforeValidator(_iso_day)]


class Input(BaseModel):
    """Base of request models: unknown fields are errors, and values of another type are not converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Grade = Annotated[
    str,
    StringConstraints(min_length=1, max_length=20),
    AfterValidator(partial(normalize_code, max_length=20)),
    Field(examples=["A-"], json_schema_extra={"pattern": CODE_PATTERN}),
]


def _truth(text: object) -> object:
    """Accept only ``true`` and ``false``; Pydantic also accepts "on", "1" and "yes"."""
    if text not in ("true", "false"):
        raise wrong("wrong_type", "{field} must be true or false.")
    return text


Truth = BeforeValidator(_truth)

IDS_PATTERN: Final = "[1-9][0-9]{0,17}(,[1-9][0-9]{0,17}){0,99}"


def _ids(text: object) -> tuple[int, ...]:
    """Split ids at their commas."""
    if not isinstance(text, str) or not re.fullmatch(IDS_PATTERN, text):
        raise wrong("not_ids", "{field} must be 1 to 100 ids, separated by commas.")
    return tuple(map(int, text.split(",")))


IdsInQuery = Annotated[
    tuple[int, ...], PlainValidator(_ids), WithJsonSchema({"type": "string", "pattern": f"^{IDS_PATTERN}$"})
]
SearchText = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200),
    AfterValidator(check_line),
    AfterValidator(lambda text: " ".join(text.split())),
    Field(json_schema_extra={"pattern": LINE_PATTERN}),
]
"""The beginning of a text to find: case, accents and apostrophes are ignored."""


def refuse_together(query: BaseModel, name: str, *others: str) -> None:
    """Raise ``Invalid`` if a query has a parameter together with one of the others."""
    if getattr(query, name) is None:
        return
    for other in others:
        if getattr(query, other) is not None:
            raise invalid(
                [Detail("not_combinable", f"{name} can't be combined with {other}: omit one.", parameter=name)]
            )


class ReasonQuery(BaseModel):
    """The reason of a change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: Annotated[Name | None, Field(description="The reason of the change; recorded in its events.")] = None
