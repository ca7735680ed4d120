"""Answers in gzip: for callers who accept it, above 1 KiB, and never with a secret."""

import asyncio
import gzip
from dataclasses import dataclass

import aiohttp
import pytest
from multidict import CIMultiDictProxy
from yarl import URL

from service.web.negotiation import BYTES_IN_LOOP, COMPRESSED_BYTES
from tests import shared
from tests.campus import new_course, new_student
from tests.conftest import Client
from tests.test_auth import bearer, new_key

pytestmark, service, client, connection, settings = shared.SERVICE

GZIP = {"Accept-Encoding": "gzip"}


@dataclass(frozen=True, slots=True)
class Sent:
    """An answer as it was sent, before a client unpacks it."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def is_compressed(self) -> bool:
        return "Content-Encoding" in self.headers

    @property
    def text(self) -> bytes:
        return gzip.decompress(self.body) if self.is_compressed else self.body


async def get(client: Client, path: str, method: str = "GET", json: object = None, **headers: str) -> Sent:
    url = client.make_url("/").join(URL(path, encoded=True))
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=["Accept-Encoding"]) as session,
        session.request(method, url, headers=sent, json=json) as response,
    ):
        return Sent(response.status, response.headers, await response.read())


async def test_an_answer_is_compressed_above_1_kib_and_equals_the_plain_one(client: Client) -> None:
    for _ in range(20):
        await new_student(client)
    for limit in (1, 20):
        path = f"/students?limit={limit}"
        plain, compressed = await get(client, path), await get(client, path, Accept_Encoding="gzip")

        assert not plain.is_compressed
        assert "Vary" not in plain.headers
        assert compressed.text == plain.body
        assert compressed.is_compressed == (len(plain.body) > COMPRESSED_BYTES) == (limit == 20)
        if compressed.is_compressed:
            assert compressed.headers["Content-Encoding"] == "gzip"
            assert compressed.headers["Vary"] == "Accept-Encoding"
            assert int(compressed.headers["Content-Length"]) == len(compressed.body) < len(plain.body) / 3
        head = await get(client, path, "HEAD", Accept_Encoding="gzip")
        assert head.body == b""
        for name in ("Content-Length", "Content-Encoding", "Vary"):
            assert head.headers.get(name) == compressed.headers.get(name)


@pytest.mark.parametrize(
    ("accepted", "is_compressed"),
    [
        ("gzip", True),
        ("GZip", True),
        ("x-gzip", True),
        ("br, gzip;q=0.1", True),
        ("*", True),
        ("deflate, *;q=0.5", True),
        ("gzip;q=1.0, identity;q=0.5", True),
        ("", False),
        ("br, deflate", False),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("gzip;q=0.5, identity", False),
        ("identity", False),
        ("gzip;q=high", False),
        (", ;;", False),
    ],
)
async def test_the_caller_says_whether_an_answer_may_be_compressed(
    client: Client, accepted: str, is_compressed: bool
) -> None:
    sent = await get(client, "/openapi.json", Accept_Encoding=accepted)
    assert (sent.status, sent.is_compressed) == (200, is_compressed)
    assert sent.text.endswith(b"}\n")


async def test_every_kind_of_answer_is_compressed(client: Client) -> None:
    fields = {f"unknown{number}": 1 for number in range(50)}
    refused = await get(client, "/students", "POST", fields, Accept_Encoding="gzip")
    assert (refused.status, refused.is_compressed) == (422, True)
    assert refused.headers["Content-Type"].startswith("application/problem+json")
    assert b"unknown49" in refused.text
    for path in ("/openapi.json", "/metrics", "/docs"):
        sent = await get(client, path, Accept_Encoding="gzip")
        assert (sent.status, sent.is_compressed) == (200, True), path


async def test_an_answer_that_may_have_a_secret_is_not_compressed(client: Client) -> None:
    admin = bearer(await new_key(client, "admin"))
    name = "x" * 2 * COMPRESSED_BYTES
    refused = await get(client, "/keys", "POST", {"name": name, "scopes": ["read"], name: 1}, **GZIP, **admin)
    assert len(refused.body) > COMPRESSED_BYTES
    assert not refused.is_compressed


async def test_a_compressed_answer_has_a_tag_of_its_own_that_makes_requests_conditional(client: Client) -> None:
    course = await new_course(client)
    path = f"/courses/{course}/requirements"
    groups = [{"kind": "pre", "any_of": [f"CODE{number}-{group}" for number in range(50)]} for group in range(3)]
    assert (await get(client, path, "PUT", {"groups": groups})).status == 200
    plain, compressed = await get(client, path), await get(client, path, Accept_Encoding="gzip")
    tag, coded = plain.headers["ETag"], compressed.headers["ETag"]
    assert compressed.is_compressed
    assert coded == f'{tag[:-1]}-gzip"'

    for known in (tag, coded, f"W/{tag}", f"W/{coded}"):
        same = await get(client, path, Accept_Encoding="gzip", If_None_Match=known)
        assert (same.status, same.body, same.headers["ETag"], same.headers["Vary"]) == (
            304,
            b"",
            coded,
            "Accept-Encoding",
        )
        assert not same.is_compressed
        same = await get(client, path, If_None_Match=known)
        assert (same.status, same.headers["ETag"]) == (304, tag)
    for known in (coded, tag):
        assert (await get(client, path, If_Match=known)).status == 200
        assert (await get(client, path, "PUT", {"groups": groups}, If_Match=known)).status == 200
    assert (await get(client, path, "PUT", {"groups": []}, If_Match=coded)).status == 200
    assert (await get(client, path, "PUT", {"groups": groups}, If_Match=coded)).status == 412


async def test_long_answers_are_compressed_in_threads_at_the_same_time(client: Client) -> None:
    plain = await get(client, "/openapi.json")
    assert len(plain.body) > BYTES_IN_LOOP
    compressed = await asyncio.gather(*[get(client, "/openapi.json", Accept_Encoding="gzip") for _ in range(10)])
    assert {each.text for each in compressed} == {plain.body}
