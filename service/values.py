"""The types of values that inputs share."""

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


Whole = BeforeValidator(_whole)

IdInBody = Annotated[int, Field(ge=1, le=LARGEST), Whole]
IdInPath = Annotated[int, Field(ge=1, le=LARGEST, description="The service's own id of it."), Digits]

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
    Field(description='As in a catalogue, such as "MATH101": printable ASCII, single spaces inside.'),
]
Credits = Annotated[
    float,
    Field(ge=0, le=99, allow_inf_nan=False, description="0 to 99, halves allowed."),
    AfterValidator(_halves),
    PlainSerializer(lambda value: int(value) if value == int(value) else value),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 99, "multipleOf": 0.5}),
]
Capacity = Annotated[int, Field(ge=0, le=LARGEST, description="Seats: null is unlimited, 0 is closed."), Whole]


class Input(BaseModel):
    """What a caller sends: unknown fields are errors, and nothing is guessed from a value of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
