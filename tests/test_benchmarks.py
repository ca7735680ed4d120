"""The pure parts of the benchmarks, and the figures that README.md quotes from the ledger."""

import json
import os
import subprocess
import sys
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.benchmarks import ledger, pgbench, report, usage, wrk
from tests.benchmarks.data import IDLE, RUSH
from tests.benchmarks.ledger import Ledger, Measurement
from tests.benchmarks.run import best_connections, options_of
from tests.benchmarks.scenarios import scenarios, steps
from tests.benchmarks.servers import EXPRESS, NOOP, OURS, SQLALCHEMY, UNBATCHED, serving

STARTED = datetime(2030, 1, 1, tzinfo=UTC)
OUTPUT = """\
Running 4s test @ http://127.0.0.1:8080
  1 threads and 64 connections
RESULT {"requests":4000,"microseconds":2000000,"bytes":900,"p50":1500,"p99":9000,"longest":20000,\
"connect":0,"read":0,"write":0,"status":400,"timeout":1}
"""


def measured(scenario: str, server: str, throughput: float, connections: int = 64, **fields: object) -> Measurement:
    given = Measurement(
        scenario=scenario,
        server=server,
        connections=connections,
        round=1,
        started=STARTED,
        command="wrk",
        seconds=4.0,
        requests=1000,
        throughput=throughput,
        p50=1.0,
        p99=2.0,
        service_cpu=100.0,
        postgres_cpu=50.0,
    )
    return replace(given, **fields)  # type: ignore[arg-type]


def book(*measurements: Measurement) -> Ledger:
    return Ledger(
        started=STARTED,
        command="python -m tests.benchmarks",
        commit="abc1234",
        machine={"processor": "a", "cores": "2", "memory": "8 GiB", "kernel": "Linux 6"},
        versions={"Python": "3.13"},
        settings={},
        measurements=list(measurements),
    )


def test_the_output_of_wrk_is_parsed() -> None:
    result = wrk.parse(OUTPUT)
    assert result is not None
    assert (result.answered, result.errors) == (3600, {"status": 400, "timeout": 1})
    assert wrk.parse("unable to connect to 127.0.0.1:8080 Connection refused\n") is None


def test_the_output_of_pgbench_is_parsed() -> None:
    output = "number of failed transactions: 3 (0.1%)\nlatency average = 1 ms\ntps = 512.25 (without initial time)\n"
    assert pgbench.parse(output) == (512.25, 3)
    assert pgbench.read_log("0 1 1500 0 1700000000 1\n1 1 failed 0 1700000000 2\n") == [1.5]


def test_a_process_with_parentheses_in_its_name_is_read() -> None:
    text = "42 (a) b (c) S 7 42 42 0 -1 4194304 100 0 0 0 11 22 33 44 20 0 1 0 100 0 0\n"
    assert usage.parse_stat(text) == usage.Stat(parent=7, own=33, ended=77)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")
def test_the_time_of_children_that_have_ended_counts() -> None:
    before = usage.cpu_seconds(os.getpid())
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    assert usage.cpu_seconds(os.getpid()) - before >= 0.25


def test_a_load_that_writes_gets_a_database_of_its_own() -> None:
    ours, *_ = scenarios(0)["enroll"]
    assert [len(step) for step in steps(ours, {})] == [1, 1]
    reads, *_ = scenarios(0)["read"]
    assert [len(step) for step in steps(reads, {})] == [6]
    assert [[each[1] for each in step] for step in steps(ours, {("enroll", "ours"): 256})] == [[256]]


def test_a_server_is_measured_with_the_number_of_connections_that_suits_it_better() -> None:
    found = best_connections(
        [
            measured("enroll", "ours", 100, 64),
            measured("enroll", "ours", 120, 256),
            measured("enroll", "peer", 90, 64),
            measured("enroll", "peer", 80, 256),
            measured("batching", "ours", 70, 64),
            measured("rush", "ours", 70, 64),
            measured("rush", "ours", 90, 256),
        ]
    )
    assert found == {("enroll", "ours"): 256, ("enroll", "peer"): 64}


def test_warm_up_rush_and_load_use_different_students() -> None:
    warmup = options_of(RUSH, "rush", seed=1, warmup=True)
    rush = options_of(RUSH, "rush", seed=1, warmup=False)
    load = options_of(IDLE, "enroll", seed=1, warmup=False)
    assert (warmup["first"], warmup["last"]) == (1, 250)
    assert (load["first"], load["last"]) == (251, 5000)
    assert (rush["first"], rush["last"]) == (5001, 205_000)


def test_ratios_are_taken_within_a_round_before_the_median() -> None:
    measurements = [
        measured("enroll", server, throughput, round=number)
        for number, ours, peer, noop in ((1, 1000, 100, 4000), (2, 500, 25, 2500), (3, 900, 75, 1000))
        for server, throughput in (
            (OURS.name, ours),
            (SQLALCHEMY.name, peer / 2),
            (EXPRESS.name, peer),
            (NOOP.name, noop),
        )
    ]
    lines = report.reach_table(book(*measurements)).splitlines()
    sign = "\N{MULTIPLICATION SIGN}"
    assert [line for line in lines if "best peer" in line] == [
        f"| enroll, rules idle: ours / best peer | 10.00 · 20.00 · 12.00 | **12.00 {sign}** | 5 {sign} | 10 {sign} | aim |"
    ]
    assert [line.split(" | ")[1:] for line in lines if "no-op" in line] == [
        ["0.25 · 0.20 · 0.90", f"**0.25 {sign}**", f"0.28 {sign}", f"0.5 {sign}", "**no** |"]
    ]


def test_with_few_callers_the_median_of_the_starts_of_each_server_counts() -> None:
    its = book(
        *[measured("few callers: enroll", OURS.name, value, 1) for value in (900, 400, 600)],
        *[measured("few callers: enroll", EXPRESS.name, value, 1) for value in (800, 300, 500)],
        measured("few callers: enroll", SQLALCHEMY.name, 100, 1),
        measured("few callers: enroll", OURS.name, 1000, 4),
    )
    [line] = [line for line in report.reach_table(its).splitlines() if "best peer" in line]
    assert line.split(" | ")[:2] == ["| enroll, 1 caller: ours / best peer", "1.20"]


def test_lower_is_better_for_latency_and_for_growth() -> None:
    its = book(
        measured("idle", OURS.name, 1, 1, p50=1.05),
        measured("idle", UNBATCHED.name, 1, 1, p50=1.0),
        measured("growth: read", "ours, 100,000 enrollments", 1, service_cpu=100.0),
        measured("growth: read", "ours, 1,000,000 enrollments", 1, service_cpu=200.0),
    )
    idle, growth = report.reach_table(its).splitlines()[2:]
    assert (idle.split(" | ")[2], idle.split(" | ")[-1]) == ("**0.05 ms**", "yes |")
    assert growth.split(" | ")[-1] == "**no** |"


def test_the_report_lists_failures_and_values_above_their_ceiling() -> None:
    its = book(
        measured("enroll", OURS.name, 300, 64),
        measured("enroll", OURS.name, 400, 256, errors={"status": 100}),
        measured("enroll", NOOP.name, 350),
        measured("rush", OURS.name, 300, state={"enrolled": 500, "in_order": True, "check": "clean"}),
        measured("rush", OURS.name, 300, 256, state={"enrolled": 501, "in_order": True, "check": "clean"}),
    )
    text = report.document(its)
    assert "| enroll | ours | 256 | 400 | 1.00 | 2.00 | 100 | 50 | 10.0% |" in text
    assert "| ours | 64 |" not in text.partition("| rush")[0]
    assert "above the no-op" in text
    assert "**['500', '501']**" in text


def test_a_ledger_is_read_back_as_it_was_written_and_its_chart_shows_it(tmp_path: Path) -> None:
    its = book(measured("enroll", OURS.name, 300, state={"check": "clean", "enrolled": 500, "consistent": True}))
    its.write(tmp_path / "ledger.json")
    assert ledger.read(tmp_path / "ledger.json") == its
    report.write(its, tmp_path)
    assert (tmp_path / report.DOCUMENT).read_text() == report.document(its) + "\n"
    drawn = ET.fromstring((tmp_path / report.CHART).read_text())
    assert "300" in [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]


def test_the_readme_quotes_the_ledger() -> None:
    readme = report.README.read_text()
    if not report.LEDGER.exists():
        assert report.quoted(readme) == report.NOT_MEASURED
        return
    its = ledger.read(report.LEDGER)
    assert report.quoted(readme) == report.in_readme(its)
    assert report.quote(readme, report.in_readme(its)) == readme
    assert (report.RESULTS / report.DOCUMENT).read_text() == report.document(its) + "\n"


def test_the_no_op_server_serves_the_calls_that_are_compared(tmp_path: Path) -> None:
    with serving(NOOP, "postgresql://nowhere.invalid/x", tmp_path / "log") as running:
        body = json.dumps({"course_ids": [500, 600]}).encode()
        headers = {"Content-Type": "application/json"}
        enrolling = urllib.request.Request(f"{running.url}/students/1/enroll", data=body, headers=headers)
        with urllib.request.urlopen(enrolling) as answer:
            assert answer.status == 201
        with urllib.request.urlopen(f"{running.url}/students/1/courses") as answer:
            assert len(json.load(answer)["items"]) == 20
