"""The folder where uploads and exports wait: the service alone can read it."""

import asyncio
import os
import secrets
import stat
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

from aiohttp import web

from service.errors import Detail, Unavailable
from service.settings import Settings
from service.web.problems import BadJson, BodyTooLarge, BodyTooSlow, invalid

PIECE_BYTES: Final = 256 * 1024


def open_spool(settings: Settings) -> Path:
    """Return the folder; make it if it is missing.

    Raises:
        Unavailable: it can't be made, or belongs to another account.
    """
    folder = settings.spool
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return folder
    except OSError as error:
        raise Unavailable("The folder for uploads and exports can't be used: see SPOOL_DIR.") from error
    raise Unavailable("The folder for uploads and exports can be read by other accounts: see SPOOL_DIR.")


async def receive(request: web.Request, settings: Settings, suffix: str) -> Path:
    """Write the body of a request into a new file, and return it.

    Raises:
        BodyTooLarge, BodyTooSlow: the body exceeds a limit.
        BadJson: it is incomplete.
        Invalid: it is empty.
        Unavailable: the disk is full.
    """
    limit = settings.import_upload
    if (request.content_length or 0) > limit:
        raise too_large(limit)
    folder = await asyncio.to_thread(open_spool, settings)
    path = folder / f"upload-{secrets.token_hex(16)}{suffix}"
    size = 0
    try:
        async with asyncio.timeout(settings.import_upload_seconds):
            with await asyncio.to_thread(path.open, "xb") as file:
                async for piece in request.content.iter_chunked(PIECE_BYTES):
                    size += len(piece)
                    if size > limit:
                        raise too_large(limit)
                    await asyncio.to_thread(file.write, piece)
        if size == 0:
            raise invalid(
                [Detail("required", "The body is empty: send the zip or the CSV file as the body.", pointer="")]
            )
    except BaseException as error:
        path.unlink(missing_ok=True)
        match error:
            case TimeoutError():
                raise BodyTooSlow("The body did not arrive in time.") from error
            case web.RequestPayloadError() | ConnectionError():
                request.content.feed_eof()
                raise BadJson("The body is incomplete: the connection broke, or its length is wrong.") from error
            case OSError():
                raise Unavailable("The upload can't be stored: the disk is full, or fails.") from error
        raise
    return path


def too_large(limit: int) -> BodyTooLarge:
    """Return the error of an upload that is too large."""
    return BodyTooLarge(f"An upload must not exceed {limit:,} bytes: compress the files, or divide them.")


def clean_spool(settings: Settings) -> None:
    """Delete what a process that was killed has left: uploads and exports above their age."""
    ages = {"upload-": timedelta(days=settings.imports_kept), "export-": 2 * timedelta(hours=settings.exports_kept)}
    if not settings.spool.is_dir():
        return
    for path in settings.spool.iterdir():
        age = ages.get(path.name[: len("upload-")])
        with suppress(OSError):
            if age is not None and time.time() - path.stat().st_mtime > age.total_seconds():
                path.unlink()
