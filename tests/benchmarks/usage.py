"""What processes have used of the processors, from /proc (proc(5))."""

import os
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Stat:
    """A process in /proc: its parent, its own ticks, and those of its children that have ended."""

    parent: int
    own: int
    ended: int


def parse_stat(text: str) -> Stat:
    """Read a line of /proc/PID/stat; the program's name may hold spaces and parentheses."""
    fields = text.rpartition(")")[2].split()
    return Stat(parent=int(fields[1]), own=int(fields[11]) + int(fields[12]), ended=int(fields[13]) + int(fields[14]))


def cpu_seconds(root: int) -> float:
    """Add up what a process and all its descendants have used, those included that have ended by now.

    A child that has been waited for counts in what its parent says of ended children, and nowhere else.
    """
    while True:
        before = _tree(root)
        after = _tree(root)
        # A child that ended between two looks would count twice or not at all.
        if before.keys() == after.keys() and all(before[pid].ended == after[pid].ended for pid in before):
            return sum(stat.own + stat.ended for stat in after.values()) / TICKS


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
