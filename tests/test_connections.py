"""Useless connections: without a request, with a caller who does not read, or too many from one address."""

import asyncio
import errno
import logging
import socket

import pytest

from service.settings import Settings
from service.web import server
from tests.campus import until
from tests.test_http import receive, served_for_real

SCRIPT = b"/docs/rapidoc-min.js"
"""The path of the largest response that needs no database."""
LIVE = b"/health/live"


def get(path: bytes) -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the service check its connections more often than once a second."""
    monkeypatch.setattr(server, "SWEEP_SECONDS", 0.02)


async def test_a_connection_without_a_whole_header_is_closed(settings: Settings, often: None) -> None:
    async with served_for_real(settings.model_copy(update={"header_timeout": 0.01})) as address:
        kept, keeps = await asyncio.open_connection(*address)
        keeps.write(get(LIVE))
        assert (await receive(kept))[0] == 200
        for sent in (b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n"):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(sent)
            assert await reader.read() == b""
            writer.close()
        keeps.write(get(LIVE))
        assert (await receive(kept))[0] == 200, "the limit is for the first request"
        keeps.close()


async def test_a_connection_whose_caller_does_not_read_is_closed(settings: Settings, often: None) -> None:
    async with served_for_real(settings.model_copy(update={"send_timeout": 0.01})) as address:
        with socket.socket() as caller:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            caller.connect(address)
            caller.sendall(get(SCRIPT) * 30)

            async def reset() -> bool:
                return caller.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET

            await until(reset, "the connection to be reset")


async def test_a_caller_who_reads_slowly_gets_every_response(settings: Settings) -> None:
    async with served_for_real(settings.model_copy(update={"send_timeout": 1.5})) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(get(SCRIPT) * 10)
        for _ in range(10):
            # The check of the connections runs in some of these pauses and finds data that was not read yet.
            await asyncio.sleep(0.3)
            status, headers, body = await receive(reader)
            assert (status, len(body)) == (200, int(headers["content-length"]))
        writer.close()


async def test_the_connections_of_an_address_can_be_limited(
    settings: Settings, caplog: pytest.LogCaptureFixture, often: None
) -> None:
    async with served_for_real(settings.model_copy(update={"peer_connections": 2})) as address:
        first, second = [await asyncio.open_connection(*address) for _ in range(2)]
        for reader, writer in (first, second):
            writer.write(get(LIVE))
            assert (await receive(reader))[0] == 200
        third = await asyncio.open_connection(*address)
        with pytest.raises(ConnectionResetError):
            await third[0].readexactly(1)
        for reader, writer in (first, second):
            writer.write(get(LIVE))
            assert (await receive(reader))[0] == 200

        first[1].close()
        await first[1].wait_closed()

        async def answered() -> bool:
            reader, writer = await asyncio.open_connection(*address)
            try:
                writer.write(get(LIVE))
                return (await receive(reader))[0] == 200
            except (ConnectionError, asyncio.IncompleteReadError):
                return False
            finally:
                writer.close()

        await until(answered, "the place of the connection that was closed")

        async def logged() -> bool:
            return any(vars(record).get("refused") for record in caplog.records if record.levelno == logging.WARNING)

        await until(logged, "one line about those refused")
        second[1].close()
