"""The dashboard and the alerts in ops/: each query names metrics and labels that the service has, and Prometheus answers."""

import asyncio
import json
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import yaml

from service import metrics
from service.app import codes
from service.settings import Settings
from tests.campus import call, enroll, new_course, new_student, student_fields, until
from tests.conftest import Client
from tests.test_process import PATIENCE_SECONDS, serving

ROOT: Final = Path(__file__).parent.parent
OPS: Final = ROOT / "ops"
RULES: Final = OPS / "prometheus" / "rules.yml"
DASHBOARD: Final = json.loads((OPS / "grafana" / "dashboards" / "enrollment.json").read_text())
ALERTS: Final[list[dict[str, Any]]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]
ADDED: Final = {"instance", "job"}
"""Labels that Prometheus adds to every sample of a scrape."""
NOT_OURS: Final = {"up"}
"""Metrics that Prometheus makes itself."""
WORDS: Final = {
    *("sum", "min", "max", "count", "topk", "by", "on", "or", "rate", "increase", "vector", "histogram_quantile"),
    "min_over_time",
}


def queries() -> dict[str, str]:
    """Return the query of each alert, and of each line of a panel, by a name."""
    found = {rule["alert"]: rule["expr"] for rule in ALERTS}
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            name = f"{panel['title']}: {target['legendFormat']}"
            assert name not in found
            found[name] = target["expr"]
    return found


QUERIES: Final = queries()


def plain(query: str) -> str:
    """Return a query of the dashboard as Grafana sends it."""
    return query.replace("$__rate_interval", "1m").replace("$instance", ".*")


def families(text: str) -> dict[str, set[str]]:
    """Return the labels of each name that a query may use, from the text of the metrics.

    The labels of a counter that has not counted yet are those of its declaration.
    """
    declared = {
        family.name: {*family.labels} for family in (*metrics.COUNTED, *metrics.OF_PROCESS, *metrics.OF_DATABASE)
    }
    found: dict[str, set[str]] = {}
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        labels = declared.pop(name if name in declared else name.removesuffix("_total"))
        if kind == "histogram":
            found |= {f"{name}_sum": labels, f"{name}_count": labels, f"{name}_bucket": labels | {"le"}}
        else:
            found[name] = labels
    assert not declared, "every family is in the text"
    for name, given in re.findall(r"^(\w+)(?:\{(.*)\})? ", text, re.MULTILINE):
        assert {label for label, _ in re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', given)} == found[name], name
    return found


async def test_every_query_names_metrics_and_labels_of_the_service(client: Client) -> None:
    await enroll(client, await new_student(client), await new_course(client))
    text = (await call(client, "GET", "/metrics")).body.decode()
    known = families(text)
    values = {
        "code": {*codes()["ProblemCode"], *codes()["DetailCode"]},
        "purpose": {"changes", "reads"},
        "route": {"/events"},
        "job": {"enrollment"},
    }
    for title, query in QUERIES.items():
        selectors = re.findall(r"(\w+)(?:\{([^}]*)\})?", re.sub(r'"[^"]*"', lambda m: m[0].replace("{", ""), query))
        used = [(name, given) for name, given in selectors if name in known or name in NOT_OURS]
        assert used, title
        labels = set[str]().union(*(known.get(name, set()) for name, _ in used)) | ADDED
        for name, given in used:
            for label, operator, value in re.findall(r'(\w+)\s*(=~|!=|!~|=)\s*"([^"]*)"', given):
                assert label in known.get(name, set()) | ADDED, (title, name, label)
                if operator in {"=", "!="} and label in values:
                    assert value in values[label], (title, label, value)
        for grouped in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", query):
            assert {each.strip() for each in grouped.split(",")} <= labels, (title, grouped)
        rest = re.sub(r'\{[^}]*\}|\[[^\]]*\]|"[^"]*"|\b(?:by|on)\s*\([^)]*\)', " ", query)
        assert {*re.findall(r"(?<!\w)[a-z_]\w+", rest)} <= {*known, *WORDS, *NOT_OURS}, title


def test_the_dashboard_is_well_formed() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_the_compose_profile_mounts_what_exists() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    observing = {name: each for name, each in services.items() if "observability" in each.get("profiles", ())}
    assert set(observing) == {"prometheus", "grafana"}
    for each in observing.values():
        for mount in each["volumes"]:
            source = mount.partition(":")[0]
            assert not source.startswith(".") or (ROOT / source).exists(), mount
        assert all(port.startswith("127.0.0.1:") for port in each["ports"])
    port = services["service"]["environment"]["METRICS_PORT"]
    assert "ports" not in services["service"] or not any(str(port) in each for each in services["service"]["ports"])
    [job] = yaml.safe_load((OPS / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert (job["job_name"], job["dns_sd_configs"][0]["port"]) == ("enrollment", port)
    assert {f"{each.upper()}" for each in Settings.model_fields} >= {"METRICS_PORT", "METRICS_HOST"}


def promtool(*arguments: str, text: str | None = None) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    ended = subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_promtool_accepts_the_rules_and_their_tests_pass() -> None:
    promtool("check", "rules", str(RULES))
    promtool("test", "rules", str(RULES.with_name("rules_test.yml")))


def test_each_alert_is_documented_with_its_severity() -> None:
    _, _, section = (ROOT / "docs" / "operations.md").read_text().partition("## Alerts\n")
    documented = re.findall(r"^\| `(\w+)` \| (\w+) \| [^|]+ \| [^|]+ \|$", section, re.MULTILINE)
    assert documented == [(rule["alert"], rule["labels"]["severity"]) for rule in ALERTS]


def test_each_alert_has_a_test() -> None:
    tested = re.findall(r"alertname: (\w+)", RULES.with_name("rules_test.yml").read_text())
    assert {rule["alert"] for rule in ALERTS} == {*tested}


@asynccontextmanager
async def prometheus(folder: Path, target: str) -> AsyncIterator[str]:
    """Run Prometheus with our rules, reading one target every half second; yield its address."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed: apt-get install prometheus")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    job = {"job_name": "enrollment", "static_configs": [{"targets": [target]}]}
    settings = {"global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"}}
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump({**settings, "rule_files": [str(RULES)], "scrape_configs": [job]}))
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def test_prometheus_answers_every_query(database_url: str, tmp_path: Path) -> None:
    async with (
        serving(DATABASE_URL=database_url, METRICS_PORT=0, SWEEP_INTERVAL=1) as running,
        aiohttp.ClientSession() as session,
        asyncio.timeout(PATIENCE_SECONDS),
    ):
        [address] = (await running.logged("started"))["metrics"]
        async with prometheus(tmp_path, address.split("/")[2]) as url:

            async def result_of(query: str) -> list[Any]:
                async with session.get(f"{url}/api/v1/query", params={"query": plain(query)}) as response:
                    body = await response.json()
                assert body["status"] == "success", (query, body)
                found: list[Any] = body["data"]["result"]
                return found

            async def is_scraped() -> bool:
                try:
                    return bool(await result_of("rate(enrollment_requests_total[1m]) > 0"))
                except aiohttp.ClientError:
                    # It is not listening yet, or answers 503 while it starts.
                    return False

            async def act() -> None:
                """Do something of every kind that the dashboard shows."""
                await session.post(f"{running.url}/students", json=student_fields())
                await session.post(f"{running.url}/courses", json={"code": "A", "title": "A"})
                for body in ({"course_ids": [1]}, {"course_ids": [999]}):
                    await session.post(f"{running.url}/students/1/enroll", json=body)
                await session.get(f"{running.url}/nothing")
                await session.get(f"{running.url}/students/1", headers={"If-None-Match": '"1"'})

            async def acted() -> bool:
                await act()
                return await is_scraped()

            await until(acted, "two scrapes")
            empty = {name for name, query in QUERIES.items() if not await result_of(query)}
            for _ in range(40):
                if not empty & {*QUERIES} - MAY_BE_EMPTY:
                    break
                await act()
                await asyncio.sleep(0.25)
                empty = {name for name, query in QUERIES.items() if not await result_of(query)}
            async with session.get(f"{url}/api/v1/alerts") as response:
                alerts = (await response.json())["data"]["alerts"]

    assert empty - MAY_BE_EMPTY == set()
    assert [each["labels"]["alertname"] for each in alerts] == []


MAY_BE_EMPTY: Final = {rule["alert"] for rule in ALERTS} | {"Errors: {{kind}}"}
"""Queries without a result while nothing is wrong."""
