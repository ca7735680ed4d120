"""A receiver of webhooks on loopback, which verifies every message with a library of others."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from aiohttp import web
from aiohttp.test_utils import TestServer
from standardwebhooks.webhooks import Webhook

Answer: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it was received."""

    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.body)
        return event

    def verify(self, secret: str) -> None:
        """Raise an error unless the message is signed with the secret."""
        Webhook(secret).verify(self.body, self.headers)


@dataclass(slots=True)
class Receiver:
    """A receiver that answers as it is told: with a status, or by a function."""

    url: str = ""
    answer: int | Answer = 200
    messages: list[Message] = field(default_factory=list)

    @property
    def positions(self) -> list[int]:
        """The positions of the messages so far."""
        return [each.event["position"] for each in self.messages]

    async def receive(self, request: web.Request) -> web.StreamResponse:
        # The libraries look for the headers in lower case.
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.messages.append(Message(headers, await request.read()))
        return await self.answer(request) if callable(self.answer) else web.Response(status=self.answer)

    async def until(self, count: int) -> None:
        """Wait until so many messages have arrived."""
        async with asyncio.timeout(10):
            while len(self.messages) < count:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """Run a receiver."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", receiver.receive)
    async with TestServer(app) as server:
        receiver.url = str(server.make_url("/enrollment"))
        yield receiver
