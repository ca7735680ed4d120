"""A reverse proxy that offers the service below a path: nginx, with the settings of ``ops/nginx.conf``."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.campus import course_fields
from tests.test_process import ROOT, serving


@asynccontextmanager
async def nginx(folder: Path, port: int, upstream: int) -> AsyncIterator[None]:
    """Run nginx with the configuration of the repository, on another port and without TLS."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    text = (ROOT / "ops/nginx.conf").read_text()
    for documented, here in (
        ("listen 443 ssl;", f"listen 127.0.0.1:{port};"),
        ("ssl_certificate /etc/ssl/campus.example.pem;", ""),
        ("ssl_certificate_key /etc/ssl/campus.example.key;", ""),
        ("server 127.0.0.1:8080;", f"server 127.0.0.1:{upstream};"),
    ):
        assert documented in text
        text = text.replace(documented, here)
    paths = "".join(f"{name}_temp_path {folder};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; pid {folder}/pid; error_log stderr; events {{}} http {{ access_log off; {paths} {text} }}"
    )
    process = subprocess.Popen([program, "-p", str(folder), "-c", str(config)], stderr=subprocess.DEVNULL)  # noqa: ASYNC220
    try:
        yield
    finally:
        process.terminate()
        process.wait()


async def test_links_and_the_api_page_work_below_a_path(
    database_url: str, tmp_path: Path, unused_tcp_port: int
) -> None:
    public = "http://campus.example/enrollment"
    base, host = f"http://127.0.0.1:{unused_tcp_port}", {"Host": "campus.example"}
    async with (
        serving(DATABASE_URL=database_url, PUBLIC_URL=public) as running,
        nginx(tmp_path, unused_tcp_port, int(running.url.rpartition(":")[2])),
        aiohttp.ClientSession(headers=host) as session,
    ):

        async def get(path: str, **options: str) -> aiohttp.ClientResponse:
            for _ in range(100):
                try:
                    return await session.get(base + path, allow_redirects=False, headers=options)
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.1)  # It starts.
            raise AssertionError("nginx does not start")

        index = await (await get("/enrollment/")).json()
        assert index["links"]["courses"] == "/enrollment/courses"
        for name in ("courses", "openapi", "docs", "health_ready"):
            assert (await get(index["links"][name])).status == 200
        for _ in range(2):
            async with session.post(f"{base}/enrollment/courses", json=course_fields()) as made:
                assert made.status == 201
                assert (await (await get(made.headers["Location"])).json())["id"] == (await made.json())["id"]
        link = (await get("/enrollment/courses?limit=1")).headers["Link"]
        assert link.startswith("</enrollment/courses?limit=1&cursor=")
        assert len((await (await get(link[1 : link.index(">")])).json())["items"]) == 1
        page = await get("/enrollment/", Accept="text/html")
        assert (page.status, page.content_type) == (200, "text/html")
        assert index["links"]["console"] == "/enrollment/console"
        for name in ("console", "console/console.js", "console/console.css"):
            assert (await get(f"/enrollment/{name}")).status == 200
        text = await (await get("/enrollment/docs")).text()
        assert 'src="docs/rapidoc-min.js"' in text
        assert (await get("/enrollment/docs/rapidoc-min.js")).status == 200
        document = json.loads(await (await get("/enrollment/openapi.json")).read())
        assert document["servers"] == [{"url": public}]
        assert (await get("/enrollment/metrics")).status == 404
        assert (await get("/courses")).headers["Server"].startswith("nginx"), "nothing else reaches the service"
