"""A proxy between the service and PostgreSQL that cuts connections, swallows what is sent, or delays it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit, urlunsplit

CHUNK_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Cut:
    """Where to cut a connection: at the ``turn``-th message to the server that contains ``text``."""

    text: bytes = b""
    turn: int = 1
    answered: bool = True
    """Whether the server gets the message and its answer is lost; otherwise the message itself is lost."""


class Wire:
    """A proxy between the service and PostgreSQL, which forwards everything until a test or a trial changes it."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._socket = parse_qs(self._target.query)
        self._turn = 0
        self._cut: Cut | None = None
        self._connections: dict[asyncio.Task[object], asyncio.StreamWriter] = {}
        self.cuts = 0
        """The number of connections that were cut."""
        self.swallows = False
        """Whether messages in both directions vanish, as in a network that drops packets."""
        self.delay = 0.0
        """Seconds by which each message in either direction is late."""

    @property
    def cut(self) -> Cut | None:
        """The next cut; None once it is done."""
        return self._cut

    @cut.setter
    def cut(self, cut: Cut | None) -> None:
        self._cut, self._turn = cut, 0

    def _is_due(self, data: bytes) -> Cut | None:
        """Count a message to the server, and return the cut if this is its message."""
        if self._cut is None or self._cut.text not in data:
            return None
        self._turn += 1
        if self._turn < self._cut.turn:
            return None
        cut, self._cut = self._cut, None
        return cut

    async def close(self) -> None:
        """End all connections."""
        for writer in self._connections.values():
            writer.transport.abort()
        if self._connections:
            await asyncio.wait(self._connections)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until either side closes it or it is cut."""
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        task.add_done_callback(self._connections.pop)
        if "host" in self._socket:
            path = f"{self._socket['host'][0]}/.s.PGSQL.{self._socket['port'][0]}"
            opening = asyncio.open_unix_connection(path)
        else:
            opening = asyncio.open_connection(self._target.hostname, self._target.port)
        try:
            server_reader, server_writer = await opening
        except OSError:
            writer.transport.abort()
            return
        answer_lost = asyncio.Event()

        async def to_server() -> None:
            while data := await reader.read(CHUNK_BYTES):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if self.swallows:
                    continue
                if cut := self._is_due(data):
                    if not cut.answered:
                        self.cuts += 1
                        return
                    answer_lost.set()
                server_writer.write(data)
                await server_writer.drain()

        async def to_client() -> None:
            while data := await server_reader.read(CHUNK_BYTES):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if self.swallows:
                    continue
                if answer_lost.is_set():
                    self.cuts += 1
                    return
                writer.write(data)
                await writer.drain()

        tasks = [asyncio.create_task(to_server()), asyncio.create_task(to_client())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for each in (writer, server_writer):
                each.transport.abort()


@asynccontextmanager
async def wired(url: str) -> AsyncIterator[tuple[Wire, str]]:
    """Yield a proxy and the URL of the database behind it."""
    wire = Wire(url)
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    parts = urlsplit(url)
    account = parts.netloc.rpartition("@")[0]
    try:
        # Without TLS, in which no text could be found.
        yield wire, urlunsplit(parts._replace(netloc=f"{account}@127.0.0.1:{port}", query="sslmode=disable"))
    finally:
        server.close()
        await wire.close()
