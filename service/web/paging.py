"""Keyset pagination: a cursor holds the last id of the previous page, so that pages neither skip nor repeat rows."""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated, Any, Final, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from service.errors import Detail
from service.web.problems import invalid
from service.web.validation import wrong

Item = TypeVar("Item")

SCANNED_ROWS: Final = 2_000
"""The rows that a page of a list examines: a filter that matches few of them costs at most about 10 ms. The page then has
fewer items, and the next one continues after them."""


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


PAGES: Final = (Page, WrittenPage)
"""Both forms of a page."""


def list_name(name: str, query: Paging) -> str:
    """Return the name of a list with its filters and its sort, to which its cursors belong."""
    filters = [(field, value) for field, value in query if field not in {"limit", "cursor"} and value is not None]
    # A digest, because a cursor must be short.
    return f"{name} {blake2b(repr(filters).encode(), digest_size=8).hexdigest()}" if filters else name


def decode_cursor(cursor: str | None, of: str) -> int:
    """Return the id after which the page begins. ``of`` names the list to which the cursor must belong.

    Raises:
        Invalid: the cursor belongs to another list, or is malformed.
    """
    [after] = decode_keys(cursor, of, 0)
    assert isinstance(after, int)
    return after


def decode_keys(cursor: str | None, of: str, *first: int | str) -> list[Any]:
    """Return the keys after which the page begins; those of the first page are ``first``, whose types the keys have.

    Raises:
        Invalid: the cursor belongs to another list, or is malformed.
    """
    if cursor is None:
        return [*first]
    keys: list[Any] = []
    try:
        name, *keys = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        valid = name == of and [type(key) for key in keys] == [type(key) for key in first]
    except (binascii.Error, ValueError, TypeError, RecursionError):
        valid = False
    if not valid or not all(map(_is_key, keys)):
        sentence = (
            "cursor must be the unchanged `next` value of a previous page of this list, with the same filters and sort; "
            "omit it for the first page."
        )
        raise invalid([Detail("invalid_cursor", sentence, parameter="cursor")])
    return keys


def _is_key(key: int | str) -> bool:
    """Return whether the database accepts a key; the cursor may be a forgery."""
    if isinstance(key, int):
        return 0 <= key < 2**63
    return "\0" not in key and not any("\ud800" <= character <= "\udfff" for character in key)


def page_of(rows: Sequence[Item], limit: int, of: str, key: Callable[[Item], int]) -> Page[Item]:
    """Return a page of up to ``limit`` + 1 rows; the extra row indicates that the list has another page."""
    items = list(rows[:limit])
    return Page(items, None if len(rows) <= limit else encode_cursor(of, key(items[-1])))


def written_page(items: str | None, next_after: int | None, of: str) -> WrittenPage[Any]:
    """Return a page of a JSON array that the database wrote. The array is None for no rows.

    The next page begins after the id ``next_after``, which is None on the last page.
    """
    return keyed_page(items, None if next_after is None else (next_after,), of)


def keyed_page(items: str | None, next_after: Sequence[int | str] | None, of: str) -> WrittenPage[Any]:
    """Return a page as ``written_page`` does; the next page begins after several keys."""
    return WrittenPage(items or "[]", None if next_after is None else encode_cursor(of, *next_after))


def encode_cursor(of: str, *after: int | str) -> str:
    """Return the cursor of the page that begins after some keys; ``decode_keys`` is the inverse."""
    # The shortest form: a key may contain 60 characters of any script, and a cursor must fit in 500 characters.
    text = json.dumps([of, *after], ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
