"""The types of values that inputs share."""

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
    StringConstraints,
    WithJsonSchema,
)

from service.web.paging import Digits
from service.web.text import (
    CODE_PATTERN,
    EXTERNAL_ID_PATTERN,
    LINE_PATTERN,
    check_line,
    normalize_code,
    normalize_external_id,
)
from service.web.validation import CODES, wrong

FIELD_CODES: Final = {
    **CODES,
    "not_an_email": "The text is not one e-mail address.",
    "not_a_time": "The text is not a time of day written HH:MM.",
    "read_only": "A member that only the service writes is not what is stored.",
    "blank": "A text has no character that can be seen.",
    "forbidden_character": "A text has a character that is not allowed in it, such as a line break or a control character.",
    "inverted_meeting": "A meeting does not start before it ends.",
    "hold_dates": "A hold begins after it ends.",
    "swap_with_itself": "A course to drop is also one to add.",
    "too_many_adds": "A swap with `on_full: waitlist` has more than one course to add.",
    "too_many_pairs": "The items have more than 2,000 courses in all.",
}
"""The code of every error of an invalid request, with what it means. The documents list them."""

LARGEST = 2**63 - 1
"""The largest bigint: what is beyond it never reaches the driver."""

EXACT = 2**53
"""Up to here every whole number is a float of its own (RFC 8259 section 6)."""


def _whole(value: object) -> object:
    """Take 3.0 for 3, as JSON Schema does, where no digit can have been lost."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= EXACT else value


def _halves(value: float) -> float:
    """Refuse what Pydantic's ``multiple_of`` lets through: it takes 3.0000000001 for a multiple of 0.5."""
    if value % 0.5:
        raise wrong("not_a_multiple", "{field} must be a multiple of 0.5.")
    return value


def _rfc_3339(value: object) -> object:
    """Take an instant in words only, where Pydantic takes a number of seconds too, and cut it to microseconds."""
    match = RFC_3339.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise wrong("not_an_instant", "{field} must be an instant with an offset, such as 2026-09-01T08:00:00Z.")
    seconds, fraction, offset = match.groups("")
    return f"{seconds}{fraction[:7]}{offset}"


def _iso_day(value: object) -> object:
    """Take a day in words only."""
    if not isinstance(value, str) or not ISO_DAY.fullmatch(value):
        raise wrong("not_a_date", "{field} must be a date, such as 2026-09-01.")
    return value


def _clock(value: str) -> str:
    if not CLOCK.fullmatch(value):
        raise wrong("not_a_time", "{field} must be a time of day from 00:00 to 23:59, such as 09:30.")
    return value


def _email(value: str) -> str:
    """Return an address in its normal form: Unicode's form C, with its domain in small letters and in its own script."""
    try:
        return validate_email(value, check_deliverability=False, globally_deliverable=False).normalized
    except EmailNotValidError as error:
        raise wrong("not_an_email", "{field} must be one e-mail address, such as ada@campus.example.") from error


# Nothing is sent to the addresses: names that are reserved for tests, examples and local networks are as good as others.
SPECIAL_USE_DOMAIN_NAMES.clear()

RFC_3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
ISO_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
CLOCK = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")

Whole = BeforeValidator(_whole)

IdInBody = Annotated[int, Field(ge=1, le=LARGEST), Whole]
IdInQuery = Annotated[int, Field(ge=1, le=LARGEST), Digits]
IdInPath = Annotated[int, Field(ge=1, le=LARGEST, description="The service's own id of it.", examples=[1]), Digits]

Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200),
    AfterValidator(check_line),
    Field(json_schema_extra={"pattern": LINE_PATTERN}),
]
"""A line of text with something to read in it, and no control characters."""

ExternalId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200),
    AfterValidator(partial(normalize_external_id, max_length=200)),
    Field(
        description="The caller's own key, in any script: without spaces, and not only dots (it is part of paths).",
        json_schema_extra={"pattern": EXTERNAL_ID_PATTERN},
    ),
]
Email = Annotated[
    str,
    StringConstraints(min_length=3, max_length=254),
    AfterValidator(_email),
    Field(
        description="Unique, whatever the case of its ASCII letters. Nothing is sent to it.",
        json_schema_extra={"format": "idn-email"},
    ),
]
CourseCode = Annotated[
    str,
    StringConstraints(min_length=1, max_length=50),
    AfterValidator(partial(normalize_code, max_length=50)),
    Field(
        description='As in a catalogue, such as "MATH101", in any script, with single spaces inside. '
        "Codes are compared without regard to case.",
        json_schema_extra={"pattern": CODE_PATTERN},
    ),
]
Credits = Annotated[
    float,
    Field(ge=0, le=99, allow_inf_nan=False, description="0 to 99, halves allowed."),
    AfterValidator(_halves),
    PlainSerializer(lambda value: int(value) if value == int(value) else value),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 99, "multipleOf": 0.5}),
]
Count = Annotated[int, Field(ge=0, le=LARGEST), Whole]
Capacity = Annotated[int, Field(ge=0, le=LARGEST, description="Seats: null is unlimited, 0 is closed."), Whole]


WaitlistCapacity = Annotated[
    int, Field(ge=0, le=LARGEST, description="Places in line: null is unlimited, 0 is no waitlist."), Whole
]
CreditLimit = Annotated[
    float,
    Field(ge=0, le=999, allow_inf_nan=False, description="The most credits in one term, halves allowed."),
    AfterValidator(_halves),
    PlainSerializer(lambda value: int(value) if value == int(value) else value),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 999, "multipleOf": 0.5}),
]
Clock = Annotated[str, AfterValidator(_clock), Field(json_schema_extra={"pattern": f"^{CLOCK.pattern}$"})]
"""A time of day as HH:MM, local to the institution."""


def _in_utc(value: datetime) -> datetime:
    """Refuse an instant that PostgreSQL and Python write differently."""
    try:
        instant = value.astimezone(UTC)
    except OverflowError as error:
        raise wrong("not_an_instant", "{field} must be within the years 1 to 9999 in UTC.") from error
    # The driver takes the first and the last instant for PostgreSQL's infinities, and reads them without an offset.
    if instant in {datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)}:
        raise wrong("not_an_instant", "{field} must not be the first or the last instant of the calendar.")
    return instant


Instant = Annotated[
    datetime,
    Field(strict=False, description="An instant as RFC 3339 has it, such as 2026-09-01T08:00:00Z."),
    BeforeValidator(_rfc_3339),
    AfterValidator(_in_utc),
]
Day = Annotated[date, Field(strict=False, description="A day as YYYY-MM-DD."), BeforeValidator(_iso_day)]


class Input(BaseModel):
    """What a caller sends: unknown fields are errors, and nothing is guessed from a value of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Grade = Annotated[
    str,
    StringConstraints(min_length=1, max_length=20),
    AfterValidator(partial(normalize_code, max_length=20)),
    Field(examples=["A-"], json_schema_extra={"pattern": CODE_PATTERN}),
]


def _truth(text: object) -> object:
    """Take the words of JSON only, where Pydantic takes "on", "1" and "yes" too."""
    if text not in ("true", "false"):
        raise wrong("wrong_type", "{field} must be true or false.")
    return text


Truth = BeforeValidator(_truth)


class ReasonQuery(BaseModel):
    """Why something is done."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: Annotated[Name | None, Field(description="Told by the event.")] = None
