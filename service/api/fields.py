"""The types of values that inputs share."""

import re
from datetime import UTC, date, datetime
from typing import Annotated

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
from pydantic_core import PydanticCustomError

from service.web.paging import Digits

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
        raise PydanticCustomError("multiple_of", "Input should be a multiple of 0.5")
    return value


def _rfc_3339(value: object) -> object:
    """Take an instant in words only, where Pydantic takes a number of seconds too."""
    if not isinstance(value, str) or not RFC_3339.fullmatch(value):
        raise PydanticCustomError("datetime_parsing", "Input should be like 2026-09-01T08:00:00Z")
    return value


def _iso_day(value: object) -> object:
    """Take a day in words only."""
    if not isinstance(value, str) or not ISO_DAY.fullmatch(value):
        raise PydanticCustomError("date_parsing", "Input should be like 2026-09-01")
    return value


RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
ISO_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

Whole = BeforeValidator(_whole)

IdInBody = Annotated[int, Field(ge=1, le=LARGEST), Whole]
IdInQuery = Annotated[int, Field(ge=1, le=LARGEST), Digits]
IdInPath = Annotated[int, Field(ge=1, le=LARGEST, description="The service's own id of it.", examples=[1]), Digits]

Name = Annotated[
    str,
    StringConstraints(
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00-\x1F\x7F-\x9F]*[^\s\x00-\x1F\x7F-\x9F\uFEFF][^\x00-\x1F\x7F-\x9F]*$",
    ),
]
"""A line of text with something to read in it, and no control characters."""

ExternalId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200, pattern=r"^[!-~]*[!-\-/-~][!-~]*$"),
    Field(description="The caller's own key: printable ASCII without spaces, and not only dots (it stands in paths)."),
]
Email = Annotated[
    str,
    StringConstraints(min_length=3, max_length=254, pattern=r"^[!-?A-~]+@[!-?A-~]+$"),
    Field(description="Unique, whatever the case of its letters. Nothing is sent to it."),
]
CourseCode = Annotated[
    str,
    StringConstraints(min_length=1, max_length=50, pattern=r"^[!-~]+(?: [!-~]+)*$"),
    Field(
        description='As in a catalogue, such as "MATH101": printable ASCII, single spaces inside. Codes are compared without regard to case.'
    ),
]
Credits = Annotated[
    float,
    Field(ge=0, le=99, allow_inf_nan=False, description="0 to 99, halves allowed."),
    AfterValidator(_halves),
    PlainSerializer(lambda value: int(value) if value == int(value) else value),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 99, "multipleOf": 0.5}),
]
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
Clock = Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
"""A time of day as HH:MM, local to the institution."""


def _in_utc(value: datetime) -> datetime:
    """Refuse an instant without an offset, and one that PostgreSQL and Python write differently."""
    if value.tzinfo is None:
        raise PydanticCustomError("timezone_naive", "Input should have an offset, such as Z")
    try:
        instant = value.astimezone(UTC)
    except OverflowError as error:
        raise PydanticCustomError("datetime_out_of_range", "Input should be within the years 1 to 9999") from error
    # The driver takes the first and the last instant for PostgreSQL's infinities, and reads them without an offset.
    if instant in {datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)}:
        raise PydanticCustomError(
            "datetime_out_of_range", "Input should not be the first or the last instant of the calendar"
        )
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
    str, StringConstraints(min_length=1, max_length=20, pattern=r"^[!-~]+(?: [!-~]+)*$"), Field(examples=["A-"])
]


def _truth(text: object) -> object:
    """Take the words of JSON only, where Pydantic takes "on", "1" and "yes" too."""
    if text not in ("true", "false"):
        raise PydanticCustomError("bool_parsing", "Input should be true or false")
    return text


Truth = BeforeValidator(_truth)


class ReasonQuery(BaseModel):
    """Why something is done."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: Annotated[Name | None, Field(description="Told by the event.")] = None
