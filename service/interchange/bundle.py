"""The files of an import: a folder, a zip or one CSV file, within limits on their number and their unpacked size."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Final, Protocol

from service.interchange.rows import Place, Unreadable

MAX_FILES: Final = 200
"""Ten times the files of any format."""

JUNK: Final = frozenset({"__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini"})
"""What file managers add to a zip."""

BROKEN: Final = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError)
"""What reading a damaged, an encrypted or an exotic zip raises."""


class Bundle(Protocol):
    """Named files, which are read one after the other and never written anywhere."""

    names: frozenset[str]

    def open(self, name: str) -> IO[bytes]:
        """Open a file to read its bytes."""


class Folder:
    """The CSV files of a folder, or one of them."""

    def __init__(self, folder: Path, names: frozenset[str]) -> None:
        self._folder = folder
        self.names = names

    def open(self, name: str) -> IO[bytes]:
        """Open a file of the folder."""
        return (self._folder / name).open("rb")


class Renamed:
    """One file under the name that its sender gave it."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self.names = frozenset({name})

    def open(self, _name: str) -> IO[bytes]:
        """Open the file."""
        return self._path.open("rb")


class Zip:
    """The files at the root of a zip."""

    def __init__(self, archive: zipfile.ZipFile, limit: int) -> None:
        self._archive = archive
        entries = archive.infolist()
        if len(entries) > MAX_FILES:
            raise Unreadable("too_many_files", f"A zip may have at most {MAX_FILES} files.", Place("the zip"))
        self._entries: dict[str, zipfile.ZipInfo] = {}
        size = 0
        for entry in entries:
            parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
            if not parts or entry.is_dir() or JUNK & {*parts}:
                continue
            name = printable(entry.filename)
            if ".." in parts or parts[0] in {"/", "\\"} or ":" in parts[0]:
                raise Unreadable(
                    "unsafe_name", "The name leads out of the zip: pack the files at its root.", Place(name)
                )
            if len(parts) > 1:
                raise Unreadable("not_at_root", "The files must be at the root of the zip, in no folder.", Place(name))
            if name in self._entries:
                raise Unreadable("repeated_file", "The zip has two files of this name: keep one.", Place(name))
            if entry.flag_bits & 1:
                raise Unreadable("encrypted", "The file is encrypted: pack it without a password.", Place(name))
            size += entry.file_size
            self._entries[name] = entry
        if size > limit:
            raise Unreadable(
                "too_large", f"The unpacked files have {size:,} bytes; the limit is {limit:,} bytes.", Place("the zip")
            )
        self.names = frozenset(self._entries)

    def open(self, name: str) -> IO[bytes]:
        """Open a file of the zip; it yields at most as many bytes as the zip declares."""
        try:
            return self._archive.open(self._entries[name])
        except BROKEN as error:
            raise broken(name) from error


@contextmanager
def open_bundle(path: Path, name: str | None, limit: int) -> Iterator[Bundle]:
    """Yield the files of a path: a folder, a zip, or a CSV file, whose ``name`` may differ from that on the disk.

    Raises:
        Unreadable: there are none, or they exceed a limit.
    """
    name = printable(name or path.name)
    with ExitStack() as stack:
        if path.is_dir():
            names = frozenset(each.name for each in path.iterdir() if each.suffix.lower() == ".csv" and each.is_file())
            check_size(sum((path / each).stat().st_size for each in names), limit, name)
            yield Folder(path, names)
            return
        if not path.is_file():
            raise Unreadable("no_such_file", "There is no such file or folder.", Place(name))
        if name.lower().endswith(".csv"):
            check_size(path.stat().st_size, limit, name)
            yield Renamed(path, name)
            return
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
        except BROKEN as error:
            raise Unreadable(
                "not_a_zip", "The file is neither a zip nor a .csv file, or is damaged.", Place(name)
            ) from error
        yield Zip(archive, limit)


def check_size(size: int, limit: int, name: str) -> None:
    """Raise ``Unreadable`` if files are too large."""
    if size > limit:
        raise Unreadable("too_large", f"The files have {size:,} bytes; the limit is {limit:,} bytes.", Place(name))


def broken(name: str) -> Unreadable:
    """Return the error of a file that its zip does not yield."""
    return Unreadable("damaged", "The file can't be unpacked: the zip is damaged. Pack it again.", Place(name))


def printable(name: str) -> str:
    """Return the name of a file without characters that a terminal would obey, and not too long."""
    return "".join(each if each.isprintable() else "�" for each in name)[:200]
