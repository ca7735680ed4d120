"""The processor time of processes, read from /proc (proc(5))."""

import os
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Stat:
    """A process in /proc: its parent, its own ticks, and the ticks of its ended children."""

    parent: int
    own: int
    ended: int


def parse_stat(text: str) -> Stat:
    """Parse a line of /proc/PID/stat; the name of the program may contain spaces and parentheses."""
    fields = text.rpartition(")")[2].split()
    return Stat(parent=int(fields[1]), own=int(fields[11]) + int(fields[12]), ended=int(fields[13]) + int(fields[14]))


def cpu_seconds(root: int) -> float:
    """Return the processor time of a process and all its descendants, including those that have ended.

    A child that its parent has waited for is counted only in the ended children of the parent.
    """
    while True:
        before = _tree(root)
        after = _tree(root)
        # Read twice, because a child that ends during a reading would count twice or not at all.
        if before.keys() == after.keys() and all(before[pid].ended == after[pid].ended for pid in before):
            return sum(stat.own + stat.ended for stat in after.values()) / TICKS_PER_SECOND


def _tree(root: int) -> dict[int, Stat]:
    stats: dict[int, Stat] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stats[int(folder.name)] = parse_stat((folder / "stat").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue
    if root not in stats:
        raise ProcessLookupError(f"process {root} has ended")
    found = {root: stats[root]}
    while True:
        more = {pid: stat for pid, stat in stats.items() if stat.parent in found and pid not in found}
        if not more:
            return found
        found |= more
