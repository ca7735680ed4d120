"""Reports from the ledger: the ratios with their targets, the table of all scenarios, and a summary for README.md."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from tests.benchmarks.chart import draw
from tests.benchmarks.ledger import Ledger, Measurement
from tests.benchmarks.pgbench import KINDS
from tests.benchmarks.scenarios import BULK_ITEMS, EVERY_NUMBER, FEW, FEW_ENROLL, FEW_READ, RULES_CONFIGURED, USUAL
from tests.benchmarks.servers import ALL_PEERS, ASYNCPG, NOOP, OURS, SQLALCHEMY, UNBATCHED

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"
RESULTS: Final = Path(__file__).parent / "results"
LEDGER: Final = RESULTS / "ledger.json"
DOCUMENT: Final = "README.md"
CHART: Final = "chart.svg"
NOT_MEASURED: Final = "Not measured yet."
BEGIN: Final = "<!-- benchmarks -->"
END: Final = "<!-- /benchmarks -->"
READ: Final = "read a student's courses"
CHARTED: Final = ("enroll", READ)


@dataclass(frozen=True, slots=True)
class Target:
    """A ratio of measurements within a round, its required value and its aim; both are bounds from above if less is better."""

    what: str
    least: float
    aim: float
    ratio: Callable[["Round"], float | None]
    less_is_better: bool = False
    unit: str = "\N{MULTIPLICATION SIGN}"

    def judge(self, value: float) -> str:
        """Return whether a value reaches the aim, the required value or neither."""
        reaches = value.__le__ if self.less_is_better else value.__ge__
        return "aim" if reaches(self.aim) else "yes" if reaches(self.least) else "**no**"


class Round:
    """The measurements of one round, which can be compared with each other."""

    def __init__(self, measurements: Iterable[Measurement]) -> None:
        self.measurements = list(measurements)

    def throughput(self, scenario: str, *servers: str, connections: int | None = None) -> float | None:
        """Return the best throughput of any of the servers, or None without measurements."""
        return max((each.throughput for each in self.find(scenario, *servers, connections=connections)), default=None)

    def typical_throughput(self, scenario: str, server: str, connections: int) -> float | None:
        """Return the median of the throughput over the starts of a server, or None without measurements."""
        found = [each.throughput for each in self.find(scenario, server, connections=connections)]
        return median(found) if found else None

    def p50(self, scenario: str, server: str) -> float | None:
        """Return the median of the median latencies, or None without measurements."""
        found = [each.p50 for each in self.find(scenario, server)]
        return median(found) if found else None

    def cpu(self, scenario: str, server: str, *, connections: int | None = None) -> float | None:
        """Return the CPU for each request, of the service and PostgreSQL together, or None without measurements."""
        measured = self.find(scenario, server, connections=connections)
        found = [(each.service_cpu or 0) + (each.postgres_cpu or 0) for each in measured]
        return median(found) if found else None

    def find(self, scenario: str, *servers: str, connections: int | None = None) -> list[Measurement]:
        """Return the measurements of servers in a scenario."""
        return [
            each
            for each in self.measurements
            if each.scenario == scenario
            and each.server in servers
            and (connections is None or each.connections == connections)
        ]


def divide(one: float | None, other: float | None) -> float | None:
    """Return the quotient, or None unless both were measured."""
    return one / other if one is not None and other else None


def _versus(scenario: str, server: str, *others: str) -> Callable[[Round], float | None]:
    return lambda its: divide(its.throughput(scenario, server), its.throughput(scenario, *others))


def _idle(its: Round) -> float | None:
    on, off = its.p50("idle", OURS.name), its.p50("idle", UNBATCHED.name)
    return on - off if on is not None and off is not None else None


def _few(scenario: str, connections: int) -> Callable[[Round], float | None]:
    def ratio(its: Round) -> float | None:
        peers = [its.typical_throughput(scenario, peer, connections) for peer in PEERS]
        best = max((throughput for throughput in peers if throughput is not None), default=None)
        return divide(its.typical_throughput(scenario, OURS.name, connections), best)

    return ratio


def _few_cpu(scenario: str, connections: int) -> Callable[[Round], float | None]:
    def ratio(its: Round) -> float | None:
        peers = [its.cpu(scenario, peer, connections=connections) for peer in PEERS]
        least = min((cpu for cpu in peers if cpu is not None), default=None)
        return divide(its.cpu(scenario, OURS.name, connections=connections), least)

    return ratio


def _few_targets() -> Iterable["Target"]:
    for scenario in (FEW_ENROLL, FEW_READ):
        for number in FEW:
            callers = f"{number} caller" if number == 1 else f"{number} callers"
            what = f"{scenario.partition(': ')[2]}, {callers}: "
            least, aim = (1.5, 2) if number == max(FEW) else (1, 1.3)
            yield Target(f"{what}ours / best peer", least, aim, _few(scenario, number))
            if number < max(FEW):
                yield Target(
                    f"{what}CPU / lowest CPU of a peer", 1, 0.8, _few_cpu(scenario, number), less_is_better=True
                )


def _rush(its: Round) -> float | None:
    return divide(its.throughput("rush", OURS.name, connections=4096), its.throughput("rush", OURS.name))


def _growth(verb: str, size: int) -> Callable[[Round], float | None]:
    scenario = f"growth: {verb}"
    return lambda its: divide(
        its.cpu(scenario, f"ours, {size:,} enrollments"), its.cpu(scenario, "ours, 100,000 enrollments")
    )


def _bulk(its: Round) -> float | None:
    return divide(its.throughput("bulk", OURS.name), its.throughput("enroll", NOOP.name))


PEERS: Final = tuple(peer.name for peer in ALL_PEERS)
TARGETS: Final = (
    Target("enroll, rules idle: ours / best peer", 5, 10, _versus("enroll", OURS.name, *PEERS)),
    Target("enroll, rules configured: ours / best peer", 5, 10, _versus("enroll", RULES_CONFIGURED, *PEERS)),
    Target(f"enroll: ours / {SQLALCHEMY.name}", 15, 35, _versus("enroll", OURS.name, SQLALCHEMY.name)),
    Target("enroll: ours / no-op POST on the same server", 0.28, 0.5, _versus("enroll", OURS.name, NOOP.name)),
    Target(f"{READ}: ours / {ASYNCPG.name}", 3, 5, _versus(READ, OURS.name, ASYNCPG.name)),
    Target(f"{READ}: ours / no-op GET on the same server", 0.4, 0.6, _versus(READ, OURS.name, NOOP.name)),
    *_few_targets(),
    Target("idle, one caller: p50 with batching minus without", 0.1, 0, _idle, less_is_better=True, unit="ms"),
    Target("rush: 4,096 callers / best number of callers", 0.8, 0.95, _rush),
    Target(
        "CPU of an enroll: 10⁶ / 10⁵ existing enrollments", 1.2, 1.05, _growth("enroll", 10**6), less_is_better=True
    ),
    Target("CPU of a read: 10⁶ / 10⁵ existing enrollments", 1.2, 1.05, _growth("read", 10**6), less_is_better=True),
    Target(
        "CPU of an enroll: 10⁷ / 10⁵ existing enrollments", 1.2, 1.05, _growth("enroll", 10**7), less_is_better=True
    ),
    Target("CPU of a read: 10⁷ / 10⁵ existing enrollments", 1.2, 1.05, _growth("read", 10**7), less_is_better=True),
    Target("bulk: items/s / no-op POST requests/s", 0.8, 1.5, _bulk),
)


@dataclass(frozen=True, slots=True)
class Summary:
    """The medians of a server in a scenario with one number of connections."""

    scenario: str
    server: str
    connections: int
    throughput: float
    p50: float
    p99: float
    service_cpu: float | None
    postgres_cpu: float | None
    failed: float
    """The fraction of failed requests."""


def rounds_of(ledger: Ledger) -> list[Round]:
    """Return the measurements, grouped by round."""
    numbers = sorted({each.round for each in ledger.measurements})
    return [Round(each for each in ledger.measurements if each.round == number) for number in numbers]


def reach_table(ledger: Ledger) -> str:
    """Format the ratios of each round with their median, the required value and the aim as a table."""
    rows = [["ratio", "each round", "median", "required", "aim", "reached"]]
    for target in TARGETS:
        values = [value for its in rounds_of(ledger) if (value := target.ratio(its)) is not None]
        if not values:
            continue
        middle = median(values)
        bound = "≤ " if target.less_is_better else ""
        rows.append(
            [
                target.what,
                " · ".join(f"{value:.2f}" for value in values),
                f"**{middle:.2f} {target.unit}**",
                f"{bound}{target.least:g} {target.unit}",
                f"{bound}{target.aim:g} {target.unit}",
                target.judge(middle),
            ]
        )
    return _table(rows, left=1)


def summaries(ledger: Ledger) -> list[Summary]:
    """Return the medians over the rounds, in the order of the first measurement.

    Only the better number of connections is included for scenarios that compare throughput.
    """
    groups: dict[tuple[str, str, int], list[Measurement]] = {}
    for each in ledger.measurements:
        groups.setdefault((each.scenario, each.server, each.connections), []).append(each)
    found = [_summary(*key, group) for key, group in groups.items()]
    best: dict[tuple[str, str], Summary] = {}
    for summary in found:
        key = summary.scenario, summary.server
        if key not in best or summary.throughput > best[key].throughput:
            best[key] = summary
    return [each for each in found if each.scenario in EVERY_NUMBER or best[each.scenario, each.server] is each]


def _summary(scenario: str, server: str, connections: int, group: Sequence[Measurement]) -> Summary:
    def middle(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return median(known) if known else None

    return Summary(
        scenario=scenario,
        server=server,
        connections=connections,
        throughput=median(each.throughput for each in group),
        p50=median(each.p50 for each in group),
        p99=median(each.p99 for each in group),
        service_cpu=middle(each.service_cpu for each in group),
        postgres_cpu=middle(each.postgres_cpu for each in group),
        failed=sum(sum(each.errors.values()) for each in group) / max(sum(each.requests for each in group), 1),
    )


def scenario_table(ledger: Ledger) -> str:
    """Format the medians of all scenarios and servers as a table."""
    rows = [
        [
            "scenario",
            "server",
            "connections",
            "per second",
            "p50 ms",
            "p99 ms",
            "µs CPU service",
            "µs CPU PostgreSQL",
            "failed",
        ]
    ]
    last = ""
    for each in sorted(summaries(ledger), key=_order_of(ledger)):
        rows.append(
            [
                each.scenario if each.scenario != last else "",
                each.server,
                f"{each.connections:,}",
                f"{each.throughput:,.0f}",
                f"{each.p50:,.2f}",
                f"{each.p99:,.2f}",
                "" if each.service_cpu is None else f"{each.service_cpu:,.0f}",
                "" if each.postgres_cpu is None else f"{each.postgres_cpu:,.0f}",
                f"{each.failed:.1%}" if each.failed else "",
            ]
        )
        last = each.scenario
    return _table(rows, left=2)


def _order_of(ledger: Ledger) -> Callable[[Summary], int]:
    scenarios = list(dict.fromkeys(each.scenario for each in ledger.measurements))
    return lambda summary: scenarios.index(summary.scenario)


def notes(ledger: Ledger) -> list[str]:
    """Return sentences on what the tables do not show: the state of the databases, and results above a ceiling."""
    lines = []
    rushes = [each for each in ledger.measurements if each.scenario == "rush" and each.server == OURS.name]
    if rushes:
        seated = {each.state.get("enrolled") for each in rushes}
        exactly = f"exactly {next(iter(seated))}" if len(seated) == 1 else f"**{sorted(map(str, seated))}**"
        ordered = all(each.state.get("in_order") is True for each in rushes)
        clean = all(each.state.get("check") == "clean" for each in rushes)
        lines.append(
            f"In each of the {len(rushes)} rushes on our service, {exactly} students were enrolled in the 500 seats, the "
            f"waitlist was {'' if ordered else '**not** '}in the order of arrival, and `python -m service check` found "
            f"{'no faults' if clean else '**faults**'} afterwards."
        )
    checked = [each for each in ledger.measurements if "check" in each.state and each.scenario != "rush"]
    if checked:
        count = sum(each.state["check"] == "clean" for each in checked)
        lines.append(
            f"The check found no faults in {count} of the {len(checked)} other checked databases that our service wrote to."
        )
    for scenario in CHARTED:
        rates = {each.server: each.throughput for each in summaries(ledger) if each.scenario == scenario}
        for server in (OURS.name, RULES_CONFIGURED):
            if NOOP.name in rates and rates.get(server, 0) > rates[NOOP.name]:
                lines.append(
                    f"{scenario}: {server} is above the no-op, which should be its ceiling; this needs an explanation."
                )
    rates = {each.server: each.throughput for each in summaries(ledger) if each.scenario == "enroll"}
    for server in KINDS:
        if server in rates and rates.get(OURS.name, 0) > rates[server]:
            lines.append(
                f"enroll: ours is above *{server}*, because pgbench commits each enrollment separately, while our service "
                "commits requests that arrive together in one transaction."
            )
    return lines


def document(ledger: Ledger) -> str:
    """Format the whole ledger as Markdown."""
    machine = ledger.machine
    rounds = len(rounds_of(ledger))
    measured = (
        f"Measured on {ledger.started:%Y-%m-%d} at commit `{ledger.commit}` with `{ledger.command}`: {machine['cores']} "
        f"cores ({machine['processor']}) shared by the server, PostgreSQL and the load, {machine['memory']}, "
        f"{machine['kernel']}. {', '.join(f'{name} {version}' for name, version in ledger.versions.items())}."
    )
    ratios = f"The ratios within each round, and their median over {rounds} round{'s' if rounds > 1 else ''}:"
    medians = (
        f"The medians over the rounds. For scenarios that ran with {USUAL[0]} and {USUAL[1]} connections, the table shows "
        f"the better number for each server. `bulk` counts items, {BULK_ITEMS:,} for each request."
    )
    title = "# Results"
    parts = [
        title,
        measured,
        ratios,
        reach_table(ledger),
        picture(CHART),
        medians,
        scenario_table(ledger),
        *notes(ledger),
    ]
    return "\n\n".join(parts)


def picture(path: str) -> str:
    """Return the Markdown image of the chart."""
    return f"![Requests per second of each server: enroll, and read a student's courses]({path})"


def write(ledger: Ledger, folder: Path) -> None:
    """Write the document and the chart into the folder of the ledger."""
    groups = {
        scenario: [(each.server, each.throughput) for each in summaries(ledger) if each.scenario == scenario]
        for scenario in CHARTED
    }
    (folder / CHART).write_text(draw("Requests per second", {name: bars for name, bars in groups.items() if bars}))
    (folder / DOCUMENT).write_text(document(ledger) + "\n")


def in_readme(ledger: Ledger) -> str:
    """Return the text that README.md quotes: the charted scenarios, for the service and its peers."""
    servers = (OURS.name, *PEERS)

    def row(what: str, scenario: str, number: Callable[[Summary], float], connections: int | None = None) -> list[str]:
        found = {
            each.server: number(each)
            for each in summaries(ledger)
            if each.scenario == scenario and (connections is None or each.connections == connections)
        }
        return [what, *(f"{found[server]:,.0f}" if server in found else "" for server in servers)]

    rows = [["", *servers]]
    for scenario in CHARTED:
        rows.append(row(f"{scenario}: requests per second", scenario, lambda its: its.throughput))
        rows.append(row(f"{scenario}: 99th percentile, ms", scenario, lambda its: its.p99))
    rows.append(row("enroll, one caller: requests per second", FEW_ENROLL, lambda its: its.throughput, connections=1))
    machine = ledger.machine
    measured = (
        f"Measured on {ledger.started:%Y-%m-%d} at commit `{ledger.commit}`, on {machine['cores']} cores "
        f"({machine['processor']}) shared by the server, PostgreSQL and the load:"
    )
    return "\n\n".join([measured, _table(rows, left=1), picture((RESULTS / CHART).relative_to(ROOT).as_posix())])


def quote(readme: str, document: str) -> str:
    """Return a text with the document between its markers."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"{BEGIN} is missing"
    assert end, f"{END} is missing"
    return f"{before}{begin}\n\n{document}\n\n{end}{after}"


def quoted(readme: str) -> str | None:
    """Return the text between the markers, or None without markers."""
    _, begin, rest = readme.partition(BEGIN)
    text, end, _ = rest.partition(END)
    return text.strip() if begin and end else None


def _table(rows: Sequence[Sequence[str]], *, left: int) -> str:
    """Format a Markdown table; the first ``left`` columns are text, the others are numbers."""
    head, *body = rows
    rule = ["---" if number < left else "--:" for number in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *body])
