"""A run of every scenario in every round, one server after the other."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.benchmarks import ledger, pgbench, wrk
from tests.benchmarks.data import OPTIONS, Campus, Cluster, check, count_events, sum_up_rush
from tests.benchmarks.ledger import Ledger, Measurement
from tests.benchmarks.scenarios import EVERY_NUMBER, Case, Load, scenarios, steps
from tests.benchmarks.servers import Running, Server, ServerFailed, serving, versions_of
from tests.benchmarks.usage import cpu_seconds

CEILINGS: Final = "ceilings"
NAMES: Final = (*scenarios(0), CEILINGS)
CLONE: Final = "measured"
WARMUP_SECONDS: Final = 1
WARMUP_CONNECTIONS: Final = 64
"""Maximum number of connections in the warm-up; more would only queue."""
STUDENTS_PER_WARMUP_STUDENT: Final = 20
"""One of this many students is used in the warm-up only, so that the warm-up does not change the others."""


@dataclass(frozen=True, slots=True)
class Options:
    """The scenarios to measure, and the number and duration of the measurements."""

    rounds: int
    seconds: int
    only: tuple[str, ...]
    largest: int


class Run:
    """A run: its options, its PostgreSQL, and the measurements so far."""

    def __init__(self, options: Options, cluster: Cluster, log: Path) -> None:
        self.options = options
        self.cluster = cluster
        self.log = log
        self.measurements: list[Measurement] = []
        self.broken: set[Server] = set()
        """Servers that did not start; the run continues without them."""

    def carry_out(self, command: str) -> Ledger:
        """Measure the requested scenarios round by round, and return the ledger."""
        began = time.monotonic()
        wanted = {name: cases for name, cases in scenarios(self.options.largest).items() if name in self.options.only}
        servers = list(dict.fromkeys(case.server for cases in wanted.values() for case in cases))
        available = [server for server in servers if _is_available(server)]
        plan = [case for cases in wanted.values() for case in cases if case.server in available]
        with self.cluster.connect() as admin:
            postgres = admin.info.parameter_status("server_version") or "?"
        book = ledger.begin(command, postgres=postgres, settings=OPTIONS, others=versions_of(available))
        for campus in dict.fromkeys(case.campus for case in plan):
            print(f"filling {campus.name}: {campus.enrollments:,} existing enrollments", flush=True)
            self.cluster.ensure_template(campus)
        for number in range(1, self.options.rounds + 1):
            chosen = best_connections(self.measurements) if number > 1 else {}
            for case in plan:
                for step in steps(case, chosen):
                    if case.server not in self.broken:
                        self._try(case, step, number)
            if CEILINGS in self.options.only:
                for measurement in pgbench.measure(self.cluster, self.options.seconds, number, chosen):
                    self._note(measurement)
        book.measurements.extend(self.measurements)
        print(f"took {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
        return book

    def _try(self, case: Case, step: Sequence[tuple[Load, int]], number: int) -> None:
        try:
            self._take(case, step, number)
        except ServerFailed as error:
            print(error, flush=True)
            self.broken.add(case.server)

    def _take(self, case: Case, step: Sequence[tuple[Load, int]], number: int) -> None:
        """Measure loads one after the other on one database and one process."""
        with self.cluster.clone(case.campus, CLONE) as database_url:
            events = count_events(self.cluster, CLONE)
            with serving(case.server, database_url, self.log) as running:
                taken = [self._measure(case, load, connections, number, running) for load, connections in step]
            if case.writes:
                # Counted after the server has stopped, so that no request is in flight.
                taken[-1].state["events"] = count_events(self.cluster, CLONE) - events
                self._judge(case, database_url, taken[-1], last=number == self.options.rounds)
        for measurement in taken:
            self._note(measurement)

    def _note(self, measurement: Measurement) -> None:
        print(show(measurement), flush=True)
        self.measurements.append(measurement)

    def _measure(self, case: Case, load: Load, connections: int, number: int, running: Running) -> Measurement:
        script = "enroll" if load.script == "rush" else load.script
        warmup = options_of(case.campus, load.script, seed=1000 + number, warmup=True)
        quiet = min(connections, WARMUP_CONNECTIONS)
        wrk.run(wrk.command(running.url, script, connections=quiet, seconds=WARMUP_SECONDS, options=warmup))

        command = wrk.command(
            running.url,
            load.script,
            connections=connections,
            seconds=max(round(self.options.seconds * load.share), 1),
            options=options_of(case.campus, load.script, seed=number, warmup=False),
        )
        started = ledger.now()
        service, postgres = cpu_seconds(running.pid), cpu_seconds(self.cluster.pid)
        result = wrk.run(command)
        service, postgres = cpu_seconds(running.pid) - service, cpu_seconds(self.cluster.pid) - postgres
        seconds = result.microseconds / 1e6
        answered = max(result.answered, 1) * load.items
        return Measurement(
            scenario=load.scenario,
            server=case.name,
            connections=connections,
            round=number,
            started=started,
            command=shlex.join(command).replace(f"{ledger.ROOT}/", ""),
            seconds=seconds,
            requests=result.requests,
            errors=result.errors,
            throughput=result.answered * load.items / seconds,
            p50=result.p50 / 1000,
            p99=result.p99 / 1000,
            service_cpu=service / answered * 1e6,
            postgres_cpu=postgres / answered * 1e6,
        )

    def _judge(self, case: Case, database_url: str, measurement: Measurement, *, last: bool) -> None:
        """Store whether the database is consistent; a full check takes seconds and mostly runs only in the last round."""
        state = measurement.state
        if measurement.scenario == "rush":
            found = sum_up_rush(self.cluster, CLONE, case.campus)
            state.update(found)
            state["consistent"] = (
                found["enrolled"] == found["seats_taken"] == min(500, found["enrolled"] + found["waitlisted"])
                and found["waitlisted"] == found["waiting"]
                and bool(found["in_order"])
            )
        if not case.server.peer and (last or measurement.scenario == "rush"):
            fault = check(database_url)
            state["check"] = "clean" if fault is None else fault
            state["consistent"] = fault is None and bool(state.get("consistent", True))


def options_of(campus: Campus, script: str, *, seed: int, warmup: bool) -> dict[str, int]:
    """Return the options of a load script: its seed, its parameters, and the range of students to choose from."""
    warmed = campus.students // STUDENTS_PER_WARMUP_STUDENT
    if warmup:
        first, last = 1, warmed
    elif script == "rush":
        first, last = campus.students + 1, campus.students + campus.newcomers
    else:
        first, last = warmed + 1, campus.students
    return {"seed": seed, "first": first, "last": last, **campus.numbers}


def best_connections(measurements: Sequence[Measurement]) -> dict[tuple[str, str], int]:
    """Return the best number of connections for each scenario and server where only the best one counts."""
    compared = [each for each in measurements if each.scenario not in EVERY_NUMBER]
    ascending = sorted(compared, key=lambda each: each.throughput)
    return {(each.scenario, each.server): each.connections for each in ascending}


def show(measurement: Measurement) -> str:
    """Format a measurement as a line."""
    cpu = "" if measurement.service_cpu is None else f", {measurement.service_cpu:.0f}"
    cpu += "" if measurement.postgres_cpu is None else f" + {measurement.postgres_cpu:.0f} µs CPU"
    errors = f"  {measurement.errors}" if measurement.errors else ""
    state = f"  {measurement.state}" if measurement.state else ""
    return (
        f"{measurement.round}  {measurement.scenario}, {measurement.server}, {measurement.connections}: "
        f"{measurement.throughput:,.0f}/s, p50 {measurement.p50:.2f} ms, p99 {measurement.p99:.2f} ms{cpu}{errors}{state}"
    )


def _is_available(server: Server) -> bool:
    missing = server.missing()
    if missing is not None:
        print(f"skipping {server.name}: {missing}", flush=True)
    return missing is None
