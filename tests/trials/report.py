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
    rows = [("trial", "figure", "measured", "target"), ("---",) * 4]
    for name, result in load().items():
        title = f"`{name}`" + (f", {result['size']}" if result["size"] else "")
        for what, measured, target in _rows(result["figures"]):
            rows.append((title, what, measured, target))
            title = ""
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _rows(stored: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Yield the columns of each figure that has a target; those that are 0 and must be share a row."""
    figures = [Figure(**{**each, "value": float(each["value"])}) for each in stored]
    zeros = [figure.what for figure in figures if figure.value == figure.at_most == 0]
    if zeros:
        yield "; ".join(zeros), "0 each" if len(zeros) > 1 else "0", "0"
    for figure in figures:
        if figure.target and figure.what not in zeros:
            yield figure.what, figure.number if figure.holds else f"**{figure.number}**", figure.target
