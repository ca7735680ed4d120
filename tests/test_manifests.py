"""The files in ``ops/``: their settings and paths exist, and they leave the service enough time to stop."""

import re
import subprocess
from pathlib import Path

import pytest

from service.app import ENDPOINTS
from service.settings import Settings
from tests.test_process import ROOT

KUBERNETES = (ROOT / "ops/kubernetes.yaml").read_text()
UNIT = (ROOT / "ops/enrollment.service").read_text()
SCRIPTS = sorted((ROOT / "ops").glob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_valid_and_refuses_to_run_without_arguments(script: Path) -> None:
    subprocess.run(["sh", "-n", script], check=True)
    ended = subprocess.run([script], capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "name the" in ended.stderr


def test_the_manifests_name_existing_settings_and_probe_existing_paths() -> None:
    names = set(re.findall(r"name: ([A-Z][A-Z_]+)\b", KUBERNETES)) | set(re.findall(r"key: ([A-Z_]+)\b", KUBERNETES))
    assert names
    assert {name.lower() for name in names} <= Settings.model_fields.keys()
    paths = {endpoint.path for endpoint in ENDPOINTS}
    probes = re.findall(r"(\w+)Probe:\n +httpGet: \{path: (\S+),", KUBERNETES)
    assert probes == [("startup", "/health/live"), ("liveness", "/health/live"), ("readiness", "/health/ready")]
    assert {path for _, path in probes} <= paths
    assert "kind: PodDisruptionBudget" in KUBERNETES


def test_supervisors_wait_until_the_service_has_stopped() -> None:
    settings = Settings()
    rest = settings.linger_seconds + 2 * settings.shutdown_timeout
    [drain] = re.findall(r'name: DRAIN_SECONDS, value: "(\d+)"', KUBERNETES)
    [grace] = re.findall(r"terminationGracePeriodSeconds: (\d+)", KUBERNETES)
    assert int(grace) > int(drain) + rest
    [stop] = re.findall(r"TimeoutStopSec=(\d+)s", UNIT)
    assert int(stop) > rest


def test_a_proxy_keeps_idle_connections_for_less_time_than_the_service() -> None:
    [seconds] = re.findall(r"keepalive_timeout (\d+)s", (ROOT / "ops/nginx.conf").read_text())
    assert int(seconds) < Settings().keepalive_timeout
