"""Rules for the repository: one version everywhere, and every action of CI pinned to a commit."""

import re
import tomllib
from pathlib import Path

from service import __version__

ROOT = Path(__file__).parent.parent


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [image] = re.findall(r'image\.version="(.+)"', (ROOT / "Dockerfile").read_text())
    assert (project["version"], image) == (__version__, __version__)


def test_every_action_is_pinned_by_its_commit() -> None:
    used = re.findall(r"uses: *(\S+@\S+.*)", "".join(p.read_text() for p in (ROOT / ".github").rglob("*.yml")))
    assert used
    assert [line for line in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", line)] == []
