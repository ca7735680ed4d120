"""The dashboard during a rush: a real service and a real Prometheus, drawn without Grafana by a page of our own."""

import asyncio
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

import aiohttp

from service.embedded import embedded_server
from service.migrate import migrate
from tests.campus import course_fields, student_fields
from tests.test_ops import DASHBOARD, plain, prometheus
from tests.test_process import serving

STUDENTS: Final = 1_500
COURSES: Final = 20
SEATS: Final = 250
CALLERS: Final = 48
COLOURS: Final = (
    "#2563eb",
    "#dc2626",
    "#059669",
    "#d97706",
    "#7c3aed",
    "#0891b2",
    "#be185d",
    "#475569",
    "#65a30d",
    "#ea580c",
)
CELL: Final = 46
"""Width of one of the 24 columns of a dashboard, in pixels."""
LINE: Final = 25
"""Height of one of its lines."""
STYLE: Final = (
    "body{margin:0;background:#f1f5f9;font:12px system-ui,sans-serif;color:#1e293b}div{position:absolute;box-sizing:border-box}"
    ".panel{background:#fff;border:1px solid #cbd5e1;border-radius:3px;padding:6px 8px;overflow:hidden}"
    ".row{font-weight:600;font-size:14px;padding:5px 8px}b{font-weight:600}.key{font-size:10px;line-height:13px}"
)


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a panel: its name and its points, in seconds and units."""

    name: str
    points: list[tuple[float, float]]


async def run(picture: Path, seconds: float) -> None:
    """Take a picture of the dashboard after a rush of some seconds."""
    folder = Path(tempfile.mkdtemp(prefix="enrollment-trial-"))
    folder.chmod(0o711)
    try:
        with embedded_server(folder / "data") as url:
            migrate(url, timeout=60)
            options = {"DATABASE_URL": url, "METRICS_PORT": 0, "SWEEP_INTERVAL": 5}
            async with serving(**options) as running:
                [address] = (await running.logged("started"))["metrics"]
                async with prometheus(folder, address.split("/")[2]) as source:
                    began = time.time()
                    await rush(running.url, seconds)
                    await draw(source, began, time.time(), folder / "page.html")
        size = f"{24 * CELL},{LINE * max(each['gridPos']['y'] + each['gridPos']['h'] for each in DASHBOARD['panels'])}"
        browser = shutil.which("chromium") or "chromium"
        process = await asyncio.create_subprocess_exec(
            *(browser, "--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={size}"),
            *(f"--screenshot={picture.resolve()}", (folder / "page.html").as_uri()),
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert await process.wait() == 0
        print(f"wrote {picture}")
    finally:
        shutil.rmtree(folder)


async def rush(url: str, seconds: float) -> None:
    """Let students register: at first they read, then all of them enroll, at last some drop."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=connector) as session:

        async def send(method: str, path: str, body: object = None) -> Any:
            async with session.request(method, path, json=body) as response:
                return await response.json() if response.status < 500 else None

        courses = [
            (await send("POST", "/courses", course_fields(capacity=SEATS, waitlist_capacity=SEATS)))["id"]
            for _ in range(COURSES)
        ]
        students: list[int] = []

        async def arrive() -> None:
            while len(students) < STUDENTS:
                students.append((await send("POST", "/students", student_fields()))["id"])

        await asyncio.gather(*[arrive() for _ in range(CALLERS)])
        end = time.monotonic() + seconds

        async def follow() -> None:
            cursor = (await send("GET", "/events/head"))["next"]
            while time.monotonic() < end:
                cursor = (await send("GET", f"/events?wait=5&after={cursor}"))["next"]

        async def register() -> None:
            choose = random.Random(7).choice
            while (left := (end - time.monotonic()) / seconds) > 0:
                student, course = random.choice(students), choose(courses)
                if left > 0.75 or random.random() < 0.3:
                    await send("GET", f"/students/{student}/courses")
                    await asyncio.sleep(0.05 if left > 0.75 else 0)
                elif left > 0.3 or random.random() < 0.5:
                    body = {"course_ids": [course], "on_full": "waitlist"}
                    await send("POST", f"/students/{student}/enroll", body)
                else:
                    await send("DELETE", f"/students/{student}/courses/{course}")

        await asyncio.gather(*[register() for _ in range(CALLERS)], *[follow() for _ in range(4)])


async def draw(source: str, began: float, ended: float, page: Path) -> None:
    """Write a page with the panels of the dashboard, at their places, with the data of Prometheus."""
    parts = [f"<!doctype html><meta charset=utf-8><style>{STYLE}</style>"]
    async with aiohttp.ClientSession(source) as session:

        async def points_of(target: dict[str, str]) -> list[Series]:
            query = plain(target["expr"]).replace("[1m]", "[5s]")
            given = {"query": query, "start": f"{began:.0f}", "end": f"{ended:.0f}", "step": "1"}
            async with session.get("/api/v1/query_range", params=given) as response:
                found = (await response.json())["data"]["result"]
            return [_series(target["legendFormat"], each) for each in found]

        for panel in DASHBOARD["panels"]:
            at = panel["gridPos"]
            width, height = at["w"] * CELL - 6, at["h"] * LINE - 6
            place = f"left:{at['x'] * CELL + 3}px;top:{at['y'] * LINE + 3}px;width:{width}px;height:{height}px"
            if panel["type"] == "row":
                parts.append(f'<div class=row style="{place}">{escape(panel["title"])}</div>')
                continue
            lines = [line for target in panel["targets"] for line in await points_of(target)]
            chart = _chart(lines, began, ended, panel["fieldConfig"]["defaults"]["unit"], width - 18, height - 62)
            parts.append(f'<div class=panel style="{place}"><b>{escape(panel["title"])}</b><br>{chart}</div>')
    page.write_text("".join(parts))


def _series(legend: str, result: dict[str, Any]) -> Series:
    name = legend
    for label, text in result["metric"].items():
        name = name.replace(f"{{{{{label}}}}}", text)
    points = [(float(at), float(value)) for at, value in result["values"]]
    return Series(name, [(at, value) for at, value in points if value == value])  # noqa: PLR0124 - leaves out NaN


def _chart(lines: list[Series], began: float, ended: float, unit: str, width: int, height: int) -> str:
    top = max([value for line in lines for _, value in line.points], default=0.0) or 1.0
    shown = [f'<svg width="{width}" height="{height}" style="border-bottom:1px solid #94a3b8">']
    for line, colour in zip(lines, COLOURS, strict=False):
        path = " ".join(
            f"{(at - began) / (ended - began) * width:.1f},{height - value / top * (height - 14):.1f}"
            for at, value in line.points
        )
        shown.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    shown.append(f'<text x="0" y="10" font-size="10" fill="#64748b">{_amount(top, unit)}</text></svg><br>')
    keys = [
        f'<span style="color:{colour}">— {escape(line.name)}</span>'
        for line, colour in zip(lines, COLOURS, strict=False)
    ]
    return "".join(shown) + f"<span class=key>{' '.join(keys)}</span>"


def _amount(value: float, unit: str) -> str:
    forms: dict[str, Callable[[], str]] = {
        "s": lambda: f"{value * 1000:.1f} ms" if value < 1 else f"{value:.1f} s",
        "percentunit": lambda: f"{value:.1%}",
        "bytes": lambda: f"{value / 2**20:.0f} MiB",
        "short": lambda: f"{value:,.4g}",
    }
    return forms.get(unit, lambda: f"{value:,.4g} a second")()
