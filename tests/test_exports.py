"""Exports over HTTP and on the command line: every format, deltas, ranges, and imports of exports."""

import asyncio
import csv
import io
import json
import zipfile
from typing import Any

import pytest

from service.settings import Settings
from sql import Connection
from tests import shared
from tests.campus import call, create, problem
from tests.conftest import Client
from tests.test_imports import PLAIN, apply, plan

pytestmark, service, client, connection, settings = shared.SERVICE

Files = dict[str, list[list[str]]]


@pytest.fixture(scope="module")
def shared_settings(shared_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return shared_settings.model_copy(update={"import_pause": 0.0, "spool_dir": tmp_path_factory.mktemp("spool")})


async def export(client: Client, **body: object) -> tuple[dict[str, Any], bytes]:
    """Make an export, wait for it, and return it with its file."""
    answer = await call(client, "POST", "/exports", body)
    assert answer.status == 202, answer
    for _ in range(1000):
        found = await call(client, "GET", answer.headers["Location"])
        if found.body["state"] in {"done", "failed"}:
            break
        await asyncio.sleep(0.01)
    assert found.body["problem"] is None, found
    file = await call(client, "GET", f"{answer.headers['Location']}/file")
    assert file.headers["Content-Type"] == "application/zip"
    assert len(file.body) == found.body["size"]
    return found.body, file.body


def unzipped(data: bytes) -> Files:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {name: [*csv.reader(io.StringIO(archive.read(name).decode()))] for name in archive.namelist()}


async def fill(client: Client) -> None:
    """Fill the service with what the formats find difficult."""
    await apply(client, PLAIN, "?source=sis")
    await create(client, "/students", {"family_name": "=SUM(A1)", "groups": ["a b"], "max_credits": 7.5})
    club = await create(client, "/courses", {"code": "CLUB", "title": 'Chess, "fast"', "section": "1"})
    whole = (await call(client, "GET", "/terms")).body["items"][0]["id"]
    part = {
        "code": "2026F-1",
        "name": "First half",
        "parent_id": whole,
        "starts_on": "2026-09-01",
        "ends_on": "2026-10-31",
    }
    await create(client, "/terms", part)
    await call(client, "POST", "/students/4/enroll", {"course_ids": [club["id"]]})
    await call(client, "POST", "/students/3/enroll", {"course_ids": [2]})
    await call(client, "POST", "/students/3/courses/2/complete", {"passed": True, "grade": "A"})
    await call(client, "DELETE", "/students/2/courses/1")


async def test_an_import_of_an_export_changes_nothing(client: Client) -> None:
    await fill(client)
    events = (await call(client, "GET", "/events?limit=500")).body["items"]
    for format in ("plain", "oneroster-1.1", "oneroster-1.2"):
        made, data = await export(client, format=format)
        assert made["position"] == events[-1]["position"]
        done = await apply(client, data, f"?source={format}")
        assert {action for actions in done.values() for action in actions} == {"unchanged"}, (format, done)
        assert done["student"] == {"unchanged": 4}
        assert done["term"] == {"unchanged": 2}
        assert done["course"] == {"unchanged": 3}
    assert (await call(client, "GET", "/events?limit=500")).body["items"] == events


async def test_each_format_has_its_files(client: Client) -> None:
    await fill(client)
    _, data = await export(client, format="oneroster-1.2")
    files = unzipped(data)
    assert [*files] == [
        *("manifest.csv", "orgs.csv", "academicSessions.csv", "courses.csv", "classes.csv", "users.csv", "roles.csv"),
        "enrollments.csv",
    ]
    assert len(files["manifest.csv"]) == 1 + 2 + 21 + 2
    assert ["file.users", "bulk"] in files["manifest.csv"]
    assert ["file.demographics", "absent"] in files["manifest.csv"]
    assert files["academicSessions.csv"][1][:4] == ["no-term", "", "", "Courses without a term"]
    assert files["academicSessions.csv"][2] == [
        *("term-0000000001", "", "", "Fall 2026", "term", "2026-09-01", "2099-12-19", "", "2099")
    ]
    assert all(len(row) == len(rows[0]) for rows in files.values() for row in rows)
    shown = [(row[0], row[7], row[9] != "") for row in files["enrollments.csv"][1:]]
    assert shown == [
        ("enrollment-0000000001-0000000001-teacher", "true", False),
        ("enrollment-0000000001-0000000001-student", "", False),
        ("enrollment-0000000001-0000000002-student", "", False),
        ("enrollment-0000000003-0000000002-student", "", True),
        ("enrollment-0000000004-0000000003-student", "", False),
    ]

    _, data = await export(client, format="ndjson")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        read = {name: [json.loads(line) for line in archive.read(name).splitlines()] for name in archive.namelist()}
    for name in ("students", "courses", "instructors", "terms"):
        assert read[f"{name}.ndjson"] == (await call(client, "GET", f"/{name}")).body["items"]
    assert len(read["enrollments.ndjson"]) == 5

    _, data = await export(client, format="canvas")
    files = unzipped(data)
    assert ["S-1", "ada@campus.example", "Ada", "Lovelace", "ada@campus.example", "active"] in files["users.csv"]
    assert ["C-1", "S-2", "student", "deleted"] in files["enrollments.csv"]
    assert ["C-1", "I-1", "teacher", "active"] in files["enrollments.csv"]


async def test_a_delta_has_what_changed_after_a_position(client: Client) -> None:
    await fill(client)
    made, _ = await export(client, format="oneroster-1.1")
    await call(client, "PATCH", "/students/1", {"given_name": "Augusta"})
    await call(client, "DELETE", "/students/1/courses/2")
    await call(client, "PUT", "/courses/1/instructors", {"instructors": []})
    for kind in ("students", "instructors"):
        added = await create(client, f"/{kind}", {"given_name": "Away", "sourced_id": f"away-{kind}"})
        assert (await call(client, "DELETE", f"/{kind}/{added['id']}")).status == 204
    spare = await create(
        client, "/terms", {"code": "X", "name": "X", "starts_on": "2027-01-01", "ends_on": "2027-02-01"}
    )
    await call(client, "DELETE", f"/terms/{spare['id']}")

    _, data = await export(client, format="oneroster-1.1", after=made["position"])
    files = unzipped(data)
    assert ["file.enrollments", "delta"] in files["manifest.csv"]
    assert sorted((row[0], row[1], row[5], row[8]) for row in files["users.csv"][1:] if row[1] != "active") == [
        ("away-instructors", "tobedeleted", "teacher", ""),
        ("away-students", "tobedeleted", "student", ""),
    ]
    assert [row[8] for row in files["users.csv"][1:] if row[1] == "active"] == ["Augusta"]
    assert [(row[0], row[1]) for row in files["enrollments.csv"][1:]] == [
        ("enrollment-0000000001-0000000001-teacher", "tobedeleted"),
        ("enrollment-0000000001-0000000002-student", "tobedeleted"),
    ]
    sessions = [row for row in files["academicSessions.csv"][1:] if row[0] != "no-term"]
    assert [(row[0], row[1]) for row in sessions] == [
        (f"{prefix}-{spare['id']:010}", "tobedeleted") for prefix in ("term", "gp-term")
    ]
    assert all(len(row[2]) == len("2026-10-01T00:00:00.000Z") for row in files["users.csv"][1:])
    assert (await apply(client, data, "?source=back&threshold=100"))["student"] == {"unchanged": 2}

    problem(await call(client, "POST", "/exports", {"format": "plain", "after": 1}), 422, "invalid")
    problem(await call(client, "GET", "/exports/9"), 404, "export_not_found")


async def test_a_file_is_sent_in_ranges(client: Client) -> None:
    made, data = await export(client, format="plain")
    path = f"/exports/{made['id']}/file"
    part = await call(client, "GET", path, headers={"Range": "bytes=10-"})
    assert (part.status, part.body) == (206, data[10:])
    assert part.headers["Content-Range"] == f"bytes 10-{len(data) - 1}/{len(data)}"
    assert (await call(client, "GET", path, headers={"Range": f"bytes={len(data)}-"})).status == 416


async def test_files_are_taken_back_when_a_student_is_erased(
    client: Client, connection: Connection, settings: Settings
) -> None:
    await fill(client)
    made, _ = await export(client, format="plain")
    await plan(client, {"students.csv": "external_id,family_name,email\nS-1,King,new@campus.example\nS-1,King,\n"})

    assert (await call(client, "POST", "/students/1/erase", {"reason": "Art. 17"})).status == 200
    problem(await call(client, "GET", f"/exports/{made['id']}/file"), 409, "no_file")
    assert (
        await connection.fetch("SELECT FROM import_rows WHERE kind IN ('student', 'enrollment') AND row_id = 1") == []
    )
    assert (
        await connection.fetchval(
            "SELECT count(*) FROM import_rows WHERE fields::text LIKE '%campus.example%' AND key = 'S-1'"
        )
        == 0
    )
    assert await connection.fetch("SELECT FROM source_rows WHERE key LIKE 'S-1%'") == []
