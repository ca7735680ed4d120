"""Keyset pagination: a cursor holds the last id of the previous page, so that pages neither skip nor repeat rows."""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from service.errors import Detail
from service.web.problems import invalid
from service.web.validation import wrong

Item = TypeVar("Item")


def _digits(text: object) -> object:
    """Accept plain digits only: ``int`` also accepts ``" +1_0 "``."""
    if isinstance(text, str) and not (text.isascii() and text.isdigit()):
        raise wrong("wrong_type", "{field} must be a whole number in plain digits.")
    return text


Digits = BeforeValidator(_digits)


class Paging(BaseModel):
    """The query parameters of every list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: Annotated[int, Field(ge=1, le=500, description="Maximum number of items on a page."), Digits] = 50
    cursor: Annotated[
        str | None, Field(max_length=500, description="The `next` value of the previous page, unchanged.")
    ] = None


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """One page of a list, and the cursor of the next page."""

    items: Annotated[list[Item], Field(description="At most `limit` items.")]
    next: Annotated[str | None, Field(description="Send it as `cursor` to get the next page; null on the last page.")]


@dataclass(frozen=True, slots=True)
class WrittenPage(Generic[Item]):
    """A page that is already JSON, equal to a serialised ``Page``: the database writes the items."""

    items: str
    """A JSON array."""
    next: str | None

    def text(self) -> bytes:
        """Return the body."""
        next_page = "null" if self.next is None else f'"{self.next}"'
        return f'{{"items":{self.items},"next":{next_page}}}'.encode()


def decode_cursor(cursor: str | None, of: str) -> int:
    """Return the id after which the page begins. ``of`` names the list to which the cursor must belong.

    Raises:
        Invalid: the cursor belongs to another list, or is malformed.
    """
    if cursor is None:
        return 0
    try:
        list_name, after = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError, TypeError, RecursionError):
        list_name, after = None, None
    if list_name != of or type(after) is not int or not 0 <= after < 2**63:
        sentence = (
            "cursor must be the unchanged `next` value of a previous page of this list; omit it for the first page."
        )
        raise invalid([Detail("invalid_cursor", sentence, parameter="cursor")])
    return after


def page_of(rows: Sequence[Item], limit: int, of: str, key: Callable[[Item], int]) -> Page[Item]:
    """Return a page of up to ``limit`` + 1 rows; the extra row indicates that the list has another page."""
    items = list(rows[:limit])
    return Page(items, None if len(rows) <= limit else encode_cursor(of, key(items[-1])))


def written_page(items: str | None, next_after: int | None, of: str) -> WrittenPage[Any]:
    """Return a page of a JSON array that the database wrote. The array is None for no rows.

    The next page begins after the id ``next_after``, which is None on the last page.
    """
    return WrittenPage(items or "[]", None if next_after is None else encode_cursor(of, next_after))


def encode_cursor(of: str, after: int) -> str:
    """Return the cursor of the page that begins after an id; ``decode_cursor`` is the inverse."""
    # The shortest form: a list name may contain 50 characters of any script, and a cursor must fit in 500 characters.
    text = json.dumps([of, after], ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
