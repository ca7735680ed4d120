"""Keyset pages: a cursor says where the page before ended, so that no row is missed or shown twice."""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from service.errors import Detail
from service.web.problems import invalid

Item = TypeVar("Item")


def _digits(text: object) -> object:
    """Take plain digits only, where ``int`` would take ``" +1_0 "`` too."""
    if isinstance(text, str) and not (text.isascii() and text.isdigit()):
        raise PydanticCustomError("int_parsing", "Input should be a whole number in plain digits")
    return text


Digits = BeforeValidator(_digits)


class Paging(BaseModel):
    """The parameters of every list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: Annotated[int, Field(ge=1, le=500, description="How many items a page holds at most."), Digits] = 50
    cursor: Annotated[
        str | None, Field(max_length=500, description="Where to go on: `next` of the page before, as it is.")
    ] = None


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """One page of a list, and the cursor of the next one, or null after the last."""

    items: list[Item]
    next: str | None


@dataclass(frozen=True, slots=True)
class WrittenPage(Generic[Item]):
    """A page that is JSON already, as ``Page`` would be: what the database has written goes out as it is."""

    items: str
    """A JSON array."""
    next: str | None

    def text(self) -> bytes:
        """Write the whole of it."""
        next_page = "null" if self.next is None else f'"{self.next}"'
        return f'{{"items":{self.items},"next":{next_page}}}'.encode()


def decode_cursor(cursor: str | None, of: str) -> int:
    """Return the id after which the page begins; ``of`` names the list that made the cursor.

    Raises:
        Invalid: the cursor is of another list, or no cursor at all.
    """
    if cursor is None:
        return 0
    try:
        made_by, after = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError, TypeError, RecursionError):
        made_by, after = None, None
    if made_by != of or type(after) is not int or not 0 <= after < 2**63:
        sentence = "This is not a cursor of this list: take `next` of a page of it as it is, or leave it out."
        raise invalid([Detail("invalid_cursor", sentence, parameter="cursor")])
    return after


def page_of(rows: Sequence[Item], limit: int, of: str, key: Callable[[Item], int]) -> Page[Item]:
    """Make a page of rows that were asked for with one more than ``limit``: that one tells that there is a next page."""
    items = list(rows[:limit])
    return Page(items, None if len(rows) <= limit else encode_cursor(of, key(items[-1])))


def written_page(items: str | None, next_after: int | None, of: str) -> WrittenPage[Any]:
    """Make a page of what the database has written: a JSON array, None of nothing, and after what to go on, if at all."""
    return WrittenPage(items or "[]", None if next_after is None else encode_cursor(of, next_after))


def encode_cursor(of: str, after: int) -> str:
    """Make the cursor of the page that begins after an id; ``decode_cursor`` takes it."""
    text = json.dumps([of, after], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
