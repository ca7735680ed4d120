"""The metrics: valid Prometheus text, true numbers, bounded labels, all processes in one answer, and not for everybody."""

import asyncio
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, TypeAlias

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families
from pytest_aiohttp import AiohttpClient

from service import console, metrics
from service.api.keys import DATABASE
from service.app import ENDPOINTS, ONEROSTER_ENDPOINTS, codes, create_app, make_metrics_runner
from service.exposition import Board, Exposition
from service.metrics import Snapshot
from service.settings import Settings
from service.web import metrics as web_metrics
from service.web import page
from service.web.endpoint import endpoints_of, unrouted
from service.web.error_formats import MINOR_CODES, OAUTH_CODES
from sql import Connection
from tests.campus import call, drop, enroll, new_course, new_student, problem, served, until
from tests.conftest import Client
from tests.test_auth import bearer, new_key
from tests.test_institutions import fleet, many, new_school  # noqa: F401 - fixtures
from tests.test_institutions import new_key as new_key_of
from tests.test_process import run, serving

Samples: TypeAlias = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(text: str) -> Samples:
    """Return the value of each sample by its name and labels; fail unless the text is valid and each sample is unique."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, key
            found[key] = sample.value
    return found


async def scrape(client: Client, headers: Mapping[str, str] | None = None) -> Samples:
    answer = await call(client, "GET", "/metrics", headers=headers)
    assert answer.status == 200, answer
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parse(answer.body.decode())


def growth(before: Samples, after: Samples, name: str, *of: str) -> dict[Any, float]:
    """Return by how much the samples of a name have grown, by the values of some labels."""
    grown: dict[Any, float] = defaultdict(float)
    for key, value in after.items():
        if key[0] == name and (more := value - before.get(key, 0.0)):
            labels = dict(key[1])
            grown[tuple(labels[each] for each in of) if len(of) != 1 else labels[of[0]]] += more
    return dict(grown)


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


async def test_requests_changes_and_refusals_are_counted(client: Client) -> None:
    before = await scrape(client)
    course_id = await new_course(client, capacity=1, waitlist_capacity=1)
    first, second, third = [await new_student(client) for _ in range(3)]
    body = {"course_ids": [course_id], "on_full": "waitlist"}

    assert (await enroll(client, first, course_id)).status == 201
    assert (await call(client, "POST", f"/students/{second}/enroll", body)).status == 201
    refused = await enroll(client, third, course_id)
    keyed = await call(
        client, "POST", f"/students/{third}/enroll", {"course_ids": [course_id]}, headers={"Idempotency-Key": "k"}
    )
    bulk = await call(client, "POST", "/enrollments", {"items": [{"student_id": third, "course_ids": [course_id]}]})
    partial = await enroll(client, third, course_id, mode="partial")
    assert (refused.status, keyed.status, bulk.status, partial.status) == (409, 409, 200, 200), (bulk, partial)
    assert (await drop(client, first, course_id)).status == 200
    problem(await enroll(client, 999, course_id), 404, "student_not_found")
    problem(await call(client, "GET", "/students/x"), 422, "invalid")
    after = await scrape(client)

    [code] = {error["code"] for error in refused.body["errors"]}
    assert growth(before, after, "enrollment_refusals_total", "code") == {code: 4, "student_not_found": 1}
    assert growth(before, after, "enrollment_problems_total", "code") == {
        code: 2,
        "student_not_found": 1,
        "invalid": 1,
    }
    assert growth(before, after, "enrollment_events_total", "type") == {
        "student.created": 3,
        "course.created": 1,
        "enrollment.enrolled": 1,
        "enrollment.waitlisted": 1,
        "enrollment.dropped": 1,
        "enrollment.promoted": 1,
    }
    requests = growth(before, after, "enrollment_requests_total", "route", "method", "status")
    assert requests["/students/{student_id}/enroll", "POST", "201"] == 2
    assert requests["/students/{student_id}/enroll", "POST", "409"] == 2
    assert requests["/students/{student_id}/enroll", "POST", "404"] == 1
    timed = growth(before, after, "enrollment_request_seconds_count", "route", "method")
    assert sum(timed.values()) == sum(requests.values())
    changes = growth(before, after, "enrollment_batch_size_sum", "purpose")["changes"]
    assert changes == 4 + 6 + 1, "each change in a batch; a bulk request is a transaction of its own"
    assert growth(before, after, "enrollment_round_trips_total", "purpose")["changes"] >= changes
    assert value(after, "enrollment_feed_position") == 0, "the last look at the database is still fresh"


async def test_the_database_is_looked_at(client: Client, connection: Connection) -> None:
    course_id = await new_course(client, capacity=1, waitlist_capacity=9)
    for _ in range(4):
        body = {"course_ids": [course_id], "on_full": "waitlist"}
        assert (await call(client, "POST", f"/students/{await new_student(client)}/enroll", body)).status == 201
    await connection.execute("UPDATE student_courses SET recheck_at = '9999-12-31Z' WHERE student_id = 2")
    assert client.app is not None
    # Without pg_read_all_stats, the service sees the age of transactions of its own role only.
    async with client.app[DATABASE].writing():
        samples = await scrape(client)

    assert value(samples, "enrollment_database_up") == 1
    assert value(samples, "enrollment_feed_position") == 9
    assert (value(samples, "enrollment_waitlisted"), value(samples, "enrollment_blocked")) == (3, 1)
    assert value(samples, "enrollment_oldest_transaction_seconds") > 0
    assert value(samples, "enrollment_oldest_write_seconds") > 0


async def test_metrics_are_answered_while_the_database_is_not(
    aiohttp_client: AiohttpClient, settings: Settings
) -> None:
    client = await served(aiohttp_client, settings.model_copy(update={"auth": "off"}))
    assert client.app is not None

    async def hang() -> Snapshot:
        await asyncio.Event().wait()
        return {}

    exposition = Exposition(dict, hang)
    samples = parse((await exposition.text()).decode())
    await exposition.close()

    assert value(samples, "enrollment_database_up") == 0
    assert "enrollment_feed_position" not in {name for name, _ in samples}, "an old position is worse than none"


async def test_every_label_has_a_bound(client: Client, settings: Settings) -> None:
    for method, path in (
        ("GET", "/students/123456"),
        ("GET", "/students/by-external-id/canary"),
        ("GET", "/canary?canary=canary"),
        ("PUT", "/canary"),
        ("OPTIONS", "/students"),
        ("PATCH", "/courses/1"),
    ):
        await call(client, method, path, headers={"X-Request-Id": "canary", "X-Actor": "canary"})
    samples = await scrape(client)

    pages = endpoints_of(page, web_metrics, console)
    routes = {each.path for each in (*ENDPOINTS, *ONEROSTER_ENDPOINTS, *pages, unrouted)}
    bounded: dict[str, set[str] | str] = {
        "route": routes,
        "method": {*metrics.METHODS, "other"},
        "status": "[1-5][0-9]{2}",
        "code": {*codes()["ProblemCode"], *codes()["DetailCode"], *MINOR_CODES, *OAUTH_CODES},
        "type": r"(student|course|term|enrollment|hold|override|instructor|equivalence|grade_scale)\.[a-z_]+",
        "purpose": {"changes", "reads"},
        "state": {"in_use", "idle", "active", "failing", "stopped"},
        "reason": {"lock_needed", "one_by_one", "stale_plan"},
        "result": {"done", "postponed", "failed", "delivered"},
        "le": r"[0-9.+Inf]+",
        "kind": "[A-Z][A-Za-z]+",
        "version": ".+",
        "python": ".+",
    }
    for name, labels in samples:
        for label, text in labels:
            allowed = bounded[label]
            assert re.fullmatch(allowed, text) if isinstance(allowed, str) else text in allowed, (name, label, text)


async def test_metrics_need_their_scope(client: Client) -> None:
    await scrape(client)
    admin = await new_key(client, "admin")
    prometheus = await new_key(client, "metrics", key=admin)

    problem(await call(client, "GET", "/metrics"), 401, "unauthenticated")
    problem(await call(client, "GET", "/metrics", headers=bearer(admin)), 403, "scope_missing")
    assert await scrape(client, bearer(prometheus))
    problem(await call(client, "GET", "/students", headers=bearer(prometheus)), 403, "scope_missing")


@pytest.mark.not_on_citus("it has no registry")
async def test_metrics_of_a_registry_are_for_its_operator(fleet: Client) -> None:  # noqa: F811
    schools = [await new_school(fleet, name) for name in ("north", "south")]
    for school in schools:
        await school.create("/courses", {"code": "A", "title": "A"})
        problem(await school.call("GET", "/metrics"), 404, "no_such_path")
    problem(await call(fleet, "GET", "/metrics"), 401, "unauthenticated")

    samples = await scrape(fleet, bearer(await new_key_of(fleet, None, "metrics")))

    assert value(samples, "enrollment_institutions_in_memory") == 2
    assert value(samples, "enrollment_database_up") == 1
    assert value(samples, "enrollment_sweep_lag_seconds") > 0
    names = {name for name, _ in samples}
    assert not names & {"enrollment_feed_position", "enrollment_waitlisted", "enrollment_blocked"}
    assert not [text for _, labels in samples for _, text in labels if text in {"north", "south"}]


async def test_all_workers_are_in_one_answer_and_counts_never_shrink(database_url: str) -> None:
    options = {"DATABASE_URL": database_url, "METRICS_PORT": 0}
    async with serving("--workers", "2", **options) as running:
        [address] = (await running.logged("started"))["metrics"]
        route, counts = "/courses", []

        async def get(url: str) -> tuple[int, str]:
            # A new connection goes to either process.
            async with aiohttp.ClientSession() as session, session.get(url) as response:
                return response.status, await response.text()

        async def count() -> float:
            status, text = await get(address)
            assert status == 200
            samples = parse(text)
            counts.append(growth({}, samples, "enrollment_requests_total", "route").get(route, 0.0))
            return counts[-1]

        for _ in range(24):
            assert (await get(f"{running.url}{route}"))[0] in {200, 503}
            await count()

        async def is_complete() -> bool:
            return await count() == 24

        await until(is_complete, "the requests of both processes")
        assert counts == sorted(counts)
        samples = parse((await get(address))[1])
        assert value(samples, "enrollment_processes") == 2
        assert value(samples, "enrollment_pool_size") == 2 * Settings().pool_size
        assert (await get(address.replace("/metrics", "/courses")))[0] == 404, "this port serves nothing else"
        assert (await get(f"{running.url}/metrics"))[0] == 200, "on loopback, without keys, the service is open"


async def test_the_metrics_port_is_for_prometheus_and_not_for_web_pages(settings: Settings) -> None:
    for host, status in (("127.0.0.1", 421), ("0.0.0.0", 200)):
        own = {"metrics_host": host, "allowed_hosts": ("service",)}
        app = create_app(settings.model_copy(update=own))
        runner, main = make_metrics_runner(app, settings.model_copy(update=own)), web.AppRunner(app)
        await main.setup()
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/metrics"
        try:
            async with aiohttp.ClientSession() as session:
                for name, expected in (("10.0.0.7:9464", status), ("localhost", 200)):
                    async with session.get(url, headers={"Host": name}) as response:
                        assert response.status == expected, (host, name)
        finally:
            await asyncio.gather(runner.cleanup(), main.cleanup())


async def test_a_metrics_port_that_is_taken_ends_the_start(database_url: str) -> None:
    async with serving(DATABASE_URL=database_url, METRICS_PORT=0) as running:
        [address] = (await running.logged("started"))["metrics"]
        port = address.rpartition(":")[2].partition("/")[0]
        for workers in ("1", "2"):
            ended = await run("--workers", workers, DATABASE_URL=database_url, METRICS_PORT=port)
            assert ended.status == 1
            assert f"can't listen on 127.0.0.1:{port}" in ended.err


def test_snapshots_of_workers_are_added_and_each_page_is_whole() -> None:
    board = Board(3)
    assert board.read() == []

    for number in range(5):
        board.publish(1, {"enrollment_requests": [(("/a", "GET", 200), float(number))]})
    board.publish(2, {"enrollment_requests": [(("/a", "GET", 200), 3.0), (("/b", "GET", 200), 1.0)]})
    merged = dict(metrics.merged(board.read())["enrollment_requests"])

    assert merged == {("/a", "GET", 200): 7.0, ("/b", "GET", 200): 1.0}
    lags: list[Snapshot] = [{"enrollment_sweep_lag_seconds": [((), lag)]} for lag in (8.0, 2.0)]
    assert metrics.merged(lags) == {"enrollment_sweep_lag_seconds": [((), 2.0)]}, "one process that sweeps is enough"


@pytest.mark.parametrize("family", metrics.COUNTED, ids=lambda family: family.name)
def test_a_counter_or_histogram_is_a_family_of_its_own(family: metrics.Counter | metrics.Histogram) -> None:
    assert [each.name for each in metrics.COUNTED].count(family.name) == 1
    assert family.meaning.endswith(".")
    if isinstance(family, metrics.Histogram):
        assert list(family.bounds) == sorted(set(family.bounds))
