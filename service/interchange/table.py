"""Read one CSV file (RFC 4180) strictly: what could lose or invent data is an error with its line."""

import codecs
import re
from collections.abc import Iterator, Sequence
from typing import IO, Final, Literal, NamedTuple, TypeAlias, get_args

from service.interchange.bundle import BROKEN, broken
from service.interchange.rows import Place, Unreadable

MAX_LINE_BYTES: Final = 1 << 20
"""The longest record, with the line breaks in its cells: a thousand times a usual one."""

MAX_COLUMNS: Final = 500
"""Ten times the columns of any format."""

BOMS: Final = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))

Encoding: TypeAlias = Literal[
    "utf-8", "utf-16",
    "windows-1250", "windows-1251", "windows-1252", "windows-1253", "windows-1254", "windows-1255", "windows-1256",
    "windows-1257", "windows-1258",
    "iso-8859-1", "iso-8859-2", "iso-8859-5", "iso-8859-7", "iso-8859-9", "iso-8859-15",
    "mac-roman", "cp437", "cp850", "cp852", "koi8-r", "shift_jis", "euc-jp", "gb18030", "big5", "euc-kr",
]  # fmt: skip
ENCODINGS: Final[tuple[Encoding, ...]] = get_args(Encoding)
"""The encodings in which spreadsheets and other systems write CSV; each has the line feed as one byte, but for UTF-16."""

UNMARKED: Final = {"utf-16": "utf-16-le"}
"""Of a file without a byte order mark, the byte order is that of Windows."""

DELIMITERS: Final = (",", ";", "\t")
"""The header tells which of them a file of our own format has. OneRoster always has commas."""


class Record(NamedTuple):
    """A record of a file, with the line on which it begins."""

    line: int
    cells: list[str]


def read_records(
    stream: IO[bytes], file: str, encoding: str | None, delimiters: Sequence[str] = (",",)
) -> Iterator[Record]:
    """Yield the header of a file and then its records, without those whose cells are all empty.

    The delimiter is the one of ``delimiters`` of which the header has most. Cells have no blanks around them.

    Raises:
        Unreadable: the file is empty, its encoding is unknown, it is not CSV, or it exceeds a limit.
    """
    lines = decoded_lines(stream, file, encoding)
    header = next(lines, None)
    if header is None or not header.strip():
        raise Unreadable("empty_file", "The file is empty: it needs at least a header.", Place(file))
    delimiter = max(delimiters, key=header.count)
    if header.count(delimiter) >= MAX_COLUMNS:
        raise Unreadable("too_many_columns", f"A file may have at most {MAX_COLUMNS} columns.", Place(file, 1))
    shape = well_formed(delimiter)
    number, line, text = 1, 1, header
    while True:
        if '"' in text:
            while text.count('"') % 2:
                more = next(lines, None)
                if more is None or len(text) + len(more) > MAX_LINE_BYTES:
                    raise Unreadable(
                        "unclosed_quote", "A quotation mark opens on this line and never closes.", Place(file, line)
                    )
                number += 1
                text = f"{text}\n{more}"
            cells = unquoted(text, delimiter, shape, Place(file, line))
        else:
            cells = text.split(delimiter)
        cells = [cell.strip(" ") for cell in cells]
        if any(cells):
            yield Record(line, cells)
        following = next(lines, None)
        if following is None:
            return
        number += 1
        line, text = number, following


def decoded_lines(stream: IO[bytes], file: str, encoding: str | None) -> Iterator[str]:
    """Yield the lines of a file without their ends, decoded: by its byte order mark, else by ``encoding``, else as UTF-8.

    Raises:
        Unreadable: a line is not text in that encoding, or too long.
    """
    try:
        first = stream.readline(MAX_LINE_BYTES)
        bom = next(((mark, name) for mark, name in BOMS if first.startswith(mark)), None)
        chosen = bom[1] if bom else UNMARKED.get(encoding or "", encoding or "utf-8")
        if bom:
            first = first[len(bom[0]) :]
        wide = codecs.lookup(chosen).name.startswith("utf-16")
        number, data = 1, first
        while data:
            if wide and data.endswith(b"\n"):
                data = whole_units(stream, data, chosen)
            if len(data) >= MAX_LINE_BYTES:
                raise Unreadable(
                    "line_too_long", f"A line may have at most {MAX_LINE_BYTES:,} bytes.", Place(file, number)
                )
            yield decoded(data, chosen, Place(file, number), given=encoding)
            number += 1
            data = stream.readline(MAX_LINE_BYTES)
    except BROKEN as error:
        raise broken(file) from error


def whole_units(stream: IO[bytes], data: bytes, encoding: str) -> bytes:
    """Complete a line of an encoding with several bytes for each character: one of them may look like a line feed."""
    feed = "\n".encode(encoding)
    while not (data.endswith(feed) and len(data) % len(feed) == 0) and len(data) < MAX_LINE_BYTES:
        # The zero byte after the feed of little-endian text is still to come.
        more = (
            stream.read(len(feed) - len(data) % len(feed)) if len(data) % len(feed) else stream.readline(MAX_LINE_BYTES)
        )
        if not more:
            break
        data += more
    return data


def decoded(data: bytes, encoding: str, place: Place, *, given: str | None) -> str:
    """Return a line as text without its end."""
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        name = given or encoding.upper()
        sentence = f"Byte {error.start + 1} of the line is not {name}: name the encoding with --encoding (encoding=…)."
        raise Unreadable("wrong_encoding", sentence, place) from error
    if "\0" in text:
        raise Unreadable("nul", "The line has a NUL character: export the file again as text.", place)
    return text.removesuffix("\n").removesuffix("\r")


def well_formed(delimiter: str) -> re.Pattern[str]:
    """Return the pattern of the first cell of a record, quoted or not, with the delimiter or the end after it."""
    mark = re.escape(delimiter)
    return re.compile(rf'(?:"((?:[^"]|"")*)"|([^"{mark}]*))({mark}|\Z)')


def unquoted(text: str, delimiter: str, shape: re.Pattern[str], place: Place) -> list[str]:
    """Return the cells of a record with quotation marks.

    Raises:
        Unreadable: a quotation mark is neither around a cell nor doubled.
    """
    cells: list[str] = []
    start = 0
    while True:
        found = shape.match(text, start)
        if found is None:
            sentence = f"Cell {len(cells) + 1} has a stray quotation mark: put the cell in quotation marks and double those in it."
            raise Unreadable("stray_quote", sentence, place)
        quoted, plain, end = found.groups()
        cells.append(plain if quoted is None else quoted.replace('""', '"'))
        if end != delimiter:
            return cells
        start = found.end()
