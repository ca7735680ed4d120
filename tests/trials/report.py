"""The latest figures of each trial, and their table in docs/reliability.md."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.servers import ROOT
from tests.trials import TRIALS
from tests.trials.harness import Figure

RESULTS: Final = Path(__file__).parent / "results.json"
DOCUMENT: Final = ROOT / "docs" / "reliability.md"
BEGIN: Final = "<!-- trials -->\n"
END: Final = "<!-- /trials -->\n"


def keep(name: str, what: str, size: str, figures: Sequence[Figure]) -> None:
    """Store the figures of a trial in place of earlier ones."""
    results = load()
    # JSON has neither infinity nor NaN.
    results[name] = {
        "what": what,
        "size": size,
        "figures": [{**asdict(figure), "value": repr(figure.value)} for figure in figures],
    }
    RESULTS.write_text(json.dumps({each: results[each] for each in TRIALS if each in results}, indent=1) + "\n")


def load() -> dict[str, Any]:
    """Return what was stored for each trial."""
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return results


def publish() -> None:
    """Write the table into the document."""
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(BEGIN)
    DOCUMENT.write_text(f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}")


def table() -> str:
    """Return the figures that have a target as a Markdown table."""
    return "".join(
        f"| {line} |\n" for line in ("trial | figure | measured | target", "---|---|---|---", *_rows(load()))
    )


def _rows(results: dict[str, Any]) -> Iterator[str]:
    for name, result in results.items():
        title = f"`{name}`" + (f", {result['size']}" if result["size"] else "")
        for stored in result["figures"]:
            figure = Figure(**{**stored, "value": float(stored["value"])})
            if figure.target:
                measured = figure.number if figure.holds else f"**{figure.number}**"
                yield f"{title} | {figure.what} | {measured} | {figure.target}"
                title = ""
