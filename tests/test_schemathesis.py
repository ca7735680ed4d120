"""Schemathesis sends requests that the API document allows, and many that it does not."""

import asyncio
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from pytest_aiohttp import AiohttpClient

from service.settings import Settings
from service.web.auth import SCOPES
from tests.campus import call, course_fields, served, student_fields
from tests.provider import provider, with_issuer

CONFIG: Final = Path(__file__).with_name("schemathesis.toml")


class Answers(logging.Handler):
    """A log handler that counts the responses by method, route and status."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[str, str, int]] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        if not hasattr(record, "method"):
            return  # A fault is logged separately and also counted by its 500.
        self.seen[record.__dict__["method"], record.__dict__["route"], record.__dict__["status"]] += 1


@pytest.fixture
def answers() -> Iterator[Answers]:
    """Count the responses of the service, without a line for each in the report of the test."""
    logger, answers = logging.getLogger("service.access"), Answers()
    level = logger.level
    logger.addHandler(answers)
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    yield answers
    logger.removeHandler(answers)
    logger.propagate = True
    logger.setLevel(level)


async def test_the_service_conforms_to_its_document(
    aiohttp_client: AiohttpClient, settings: Settings, answers: Answers
) -> None:
    # A token, since Schemathesis would revoke an API key.
    async with provider() as issuer:
        # The hooks let webhooks send to a port of this machine that nothing listens to.
        settings = settings.model_copy(update={"webhook_hosts": ("127.0.0.1",)})
        client = await served(aiohttp_client, with_issuer(settings, issuer))
        # On a busy machine, the calls take longer than a token is valid for by default.
        token = issuer.token(scope=" ".join(set(SCOPES) - {"self"}), exp=int(time.time()) + 3600)
        headers = {"Authorization": f"Bearer {token}"}
        # The examples name the resources with id 1.
        for path, body in (
            ("/students", student_fields()),
            ("/courses", course_fields(capacity=1)),
            ("/students/1/enroll", {"course_ids": [1]}),
            ("/students/1/holds", {"reason": "Fees", "blocks": ["drop"]}),
            ("/students/1/overrides", {"course_id": 1, "rule": "hold", "author": "Dean", "reason": "So"}),
            ("/webhooks", {"url": "http://127.0.0.1:9/"}),
        ):
            assert (await call(client, "POST", path, body, headers=headers)).status == 201
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)),
            *("run", str(client.make_url("/openapi.json")), "--no-color", "-H", f"Authorization: Bearer {token}"),
            cwd=CONFIG.parent,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    # The service is not ready at first.
    assert not [answer for answer in answers.seen if answer[2] >= 500 and answer != ("GET", "/health/ready", 503)]

    # At least one request for each operation got past validation: it succeeded or was refused by a rule.
    document = await (await client.get("/openapi.json")).json()
    operations = {
        (method.upper(), path)
        for path, methods in document["paths"].items()
        for method in methods
        if not path.startswith("/institutions")  # Only an operator of a service with a registry may call these.
    }
    assert operations <= {(method, path) for method, path, status in answers.seen if status < 300 or status == 409}
