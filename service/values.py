"""The types of values that inputs share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, StringConstraints, WithJsonSchema

from service.web.paging import Digits

LARGEST = 2**63 - 1
"""The largest bigint: what is beyond it never reaches the driver."""

IdInBody = Annotated[int, Field(ge=1, le=LARGEST)]
IdInPath = Annotated[int, Field(ge=1, le=LARGEST), Digits]

Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1F\x7F]*[^\s\x00-\x1F\x7F][^\x00-\x1F\x7F]*$"),
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
    Field(ge=0, le=99, multiple_of=0.5, allow_inf_nan=False, description="0 to 99, halves allowed."),
    PlainSerializer(lambda value: int(value) if value == int(value) else value),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 99, "multipleOf": 0.5}),
]
Capacity = Annotated[int, Field(ge=0, le=LARGEST, description="Seats: null is unlimited, 0 is closed.")]


class Input(BaseModel):
    """What a caller sends: unknown fields are errors, and nothing is guessed from a value of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
