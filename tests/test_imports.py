"""Imports over HTTP: from the bytes of a file to a plan, and from the plan to the tables."""

import asyncio
import io
import json
import os
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from service.api.keys import DATABASE
from service.interchange.importer import Importer, Options
from service.interchange.table import ENCODINGS, read_records
from service.interchange.worker import WORKER
from service.settings import Settings
from sql import Connection
from sql import imports as sql
from tests import shared
from tests.campus import Answer, call, problem, registrar_of
from tests.conftest import Client
from tests.test_auth import new_key
from tests.test_process import Ended, run

pytestmark, service, client, connection, settings = shared.SERVICE

PLAIN = {
    "terms.csv": "code,name,starts_on,ends_on\n2026F,Fall 2026,2026-09-01,2099-12-18\n",
    "courses.csv": "external_id,term_code,code,section,title,credits,capacity,meetings\n"
    'C-1,2026F,MATH101,001,Calculus I,4,2,"[{""day"":""mon"",""start"":""09:00"",""end"":""10:00""}]"\n'
    "C-2,2026F,ART1,,Drawing,1.5,,\n",
    "instructors.csv": "external_id,given_name,family_name,email\nI-1,Emmy,Noether,emmy@campus.example\n",
    "students.csv": "external_id,given_name,family_name,email,groups\n"
    'S-1,Ada,Lovelace,ada@campus.example,"year:1,major:math"\n'
    "S-2,Alan,Turing,alan@campus.example,\n"
    "S-3,,Sukarno,,\n",
    "course_instructors.csv": "course_external_id,instructor_external_id,primary\nC-1,I-1,true\n",
    "enrollments.csv": "student_external_id,course_external_id\nS-1,C-1\nS-2,C-1\nS-1,C-2\n",
}


@pytest.fixture(scope="module")
def shared_settings(shared_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return shared_settings.model_copy(
        update={"import_pause": 0.0, "import_upload": 100_000, "spool_dir": tmp_path_factory.mktemp("spool")}
    )


def zipped(files: Mapping[str, str | bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return data.getvalue()


async def send(client: Client, files: Mapping[str, str | bytes] | bytes, query: str = "") -> Answer:
    data = files if isinstance(files, bytes) else zipped(files)
    return await call(client, "POST", f"/imports{query}", data=data, headers={"Content-Type": "application/zip"})


async def until(client: Client, import_id: int, *states: str) -> dict[str, Any]:
    """Wait until an import has one of the states, and return it."""
    for _ in range(1000):
        found = await call(client, "GET", f"/imports/{import_id}")
        if found.body["state"] in states:
            body: dict[str, Any] = found.body
            return body
        await asyncio.sleep(0.01)
    raise AssertionError(found.body)


async def plan(client: Client, files: Mapping[str, str | bytes] | bytes, query: str = "") -> dict[str, Any]:
    """Send files and return the import once it is planned or has failed."""
    answer = await send(client, files, query)
    assert answer.status == 202, answer
    assert answer.headers["Location"] == f"/imports/{answer.body['id']}"
    return await until(client, answer.body["id"], "planned", "failed")


async def counts(client: Client, import_id: int) -> dict[str, dict[str, int]]:
    """Return the counts of a plan that are not zero, by kind."""
    found = await call(client, "GET", f"/imports/{import_id}/plan")
    return {
        each["kind"]: {key: value for key, value in each.items() if key != "kind" and value}
        for each in found.body["counts"]
    }


async def apply(client: Client, files: Mapping[str, str | bytes] | bytes, query: str = "") -> dict[str, dict[str, int]]:
    """Import files, and return what was done."""
    planned = await plan(client, files, query)
    assert planned["problem"] is None, planned
    confirmed = await call(client, "POST", f"/imports/{planned['id']}/confirm")
    assert confirmed.status == 200, confirmed
    await until(client, planned["id"], "done")
    return await counts(client, planned["id"])


async def refusals(client: Client, import_id: int) -> list[list[str]]:
    """Return file, line, column and code of the refused rows."""
    answer = await call(client, "GET", f"/imports/{import_id}/errors")
    lines = answer.body.decode().splitlines()
    assert lines[0] == "file,line,column,kind,key,code,detail"
    return [[*line.split(",")[:3], line.split(",")[5]] for line in lines[1:]]


async def statuses(client: Client) -> list[tuple[int, int, str]]:
    answer = await call(client, "GET", "/enrollments")
    return sorted((each["student_id"], each["course_id"], each["status"]) for each in answer.body["items"])


async def test_a_plan_is_shown_then_applied_and_a_second_import_changes_nothing(client: Client) -> None:
    planned = await plan(client, PLAIN, "?source=sis")
    assert (planned["format"], planned["problem"], planned["progress"]["rows_total"]) == ("plain", None, 11)
    expected = {
        "term": {"add": 1},
        "course": {"add": 2},
        "instructor": {"add": 1},
        "student": {"add": 3},
        "teaching": {"add": 1},
        "enrollment": {"add": 3},
    }
    assert await counts(client, planned["id"]) == expected
    assert (await call(client, "GET", "/students")).body["items"] == []

    await call(client, "POST", f"/imports/{planned['id']}/confirm")
    assert (await until(client, planned["id"], "done"))["progress"] == {"rows_done": 11, "rows_total": 11}
    assert await counts(client, planned["id"]) == expected
    [first, *_] = (await call(client, "GET", "/students")).body["items"]
    assert (first["external_id"], first["groups"]) == ("S-1", ["major:math", "year:1"])
    [course, _] = (await call(client, "GET", "/courses")).body["items"]
    assert (course["seats_taken"], course["credits"], course["meetings"][0]["day"]) == (2, 4, "mon")
    teachers = (await call(client, "GET", f"/courses/{course['id']}/instructors")).body["instructors"]
    assert [(each["primary"], each["instructor"]["family_name"]) for each in teachers] == [(True, "Noether")]
    events = (await call(client, "GET", "/events")).body["items"]
    assert {event["request_id"] for event in events} == {f"import-{planned['id']}"}

    assert await apply(client, PLAIN, "?source=sis") == {
        kind: {"unchanged": actions["add"]} for kind, actions in expected.items()
    }
    assert (await call(client, "GET", "/events")).body["items"] == events
    listed = (await call(client, "GET", "/imports?limit=1")).body
    assert [each["state"] for each in listed["items"]] == ["done"]
    more = (await call(client, "GET", f"/imports?limit=1&cursor={listed['next']}")).body["items"]
    assert [each["id"] for each in more] == [planned["id"]]


async def test_a_file_changes_what_it_has_and_drops_what_only_its_source_listed(client: Client) -> None:
    await apply(client, PLAIN, "?source=sis")
    await apply(
        client, {"enrollments.csv": "student_external_id,course_external_id\nS-2,C-1\nS-3,C-2\n"}, "?source=lms"
    )
    changed = {
        "students.csv": "external_id,family_name\nS-1,King\n",
        "enrollments.csv": "student_external_id;course_external_id\r\nS-1;C-2\r\n",
    }

    blocked = await plan(client, changed, "?source=sis")
    assert blocked["problem"].startswith(
        "threshold: The plan would drop 1 rows of the kind enrollment, and the source lists 3"
    )
    problem(await call(client, "POST", f"/imports/{blocked['id']}/confirm"), 409, "plan_refused")

    assert await apply(client, changed, "?source=sis&threshold=50") == {
        "student": {"change": 1},
        "enrollment": {"drop": 1, "unchanged": 1},
    }
    assert await statuses(client) == [(1, 1, "dropped"), (1, 2, "enrolled"), (2, 1, "enrolled"), (3, 2, "enrolled")]
    assert (await call(client, "GET", "/students/1")).body["given_name"] == "Ada"
    assert await apply(client, changed, "?source=sis") == {"student": {"unchanged": 1}, "enrollment": {"unchanged": 1}}


async def test_rules_refuse_rows_unless_they_are_recorded(client: Client) -> None:
    full = {**PLAIN, "enrollments.csv": PLAIN["enrollments.csv"] + "S-3,C-1\n"}
    assert (await apply(client, full))["enrollment"] == {"add": 3, "refused": 1}
    listed = await refusals(client, 1)
    assert listed == [["enrollments.csv", "5", "", "course_full"]]

    recorded = "student_external_id,course_external_id,status,passed,grade\nS-3,C-1,enrolled,,\nS-2,C-2,withdrawn,,\nS-1,C-2,completed,true,A\n"
    refused = await plan(client, {"enrollments.csv": recorded}, "?drop=false")
    assert await counts(client, refused["id"]) == {"enrollment": {"add": 1, "change": 1, "refused": 1}}
    assert await refusals(client, refused["id"]) == [["enrollments.csv", "3", "", "never_enrolled"]]

    done = await apply(client, {"enrollments.csv": recorded}, "?drop=false&as_recorded=true")
    assert done == {"enrollment": {"add": 2, "change": 1}}
    assert await statuses(client) == [
        *[(1, 1, "enrolled"), (1, 2, "completed"), (2, 1, "enrolled"), (2, 2, "withdrawn"), (3, 1, "enrolled")]
    ]
    [override] = (await call(client, "GET", "/students/3/overrides")).body["items"]
    assert (override["rule"], override["reason"], override["used_at"] is None) == (
        "course_full",
        "Recorded as import 3 says.",
        False,
    )
    again = await apply(client, {"enrollments.csv": recorded}, "?drop=false&as_recorded=true")
    assert again == {"enrollment": {"unchanged": 3}}


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_a_file_in_any_encoding_is_read(encoding: str) -> None:
    text = 'external_id,given_name\r\nS-1,"Li\nAda"\r\nS-2,Bob\r\n'
    records = [*read_records(io.BytesIO(text.encode(encoding)), "students.csv", encoding)]
    assert [(each.line, each.cells) for each in records] == [
        (1, ["external_id", "given_name"]),
        (2, ["S-1", "Li\nAda"]),
        (4, ["S-2", "Bob"]),
    ]


async def test_a_part_of_a_term_may_be_listed_before_the_term(client: Client) -> None:
    terms = "parent_code,code,name,starts_on,ends_on\n2026F,2026F-1,First half,2026-09-01,2026-10-31\n"
    terms += ",2026F,Fall,2026-09-01,2026-12-18\n2026X,2026X-1,Lost,2026-09-01,2026-10-31\n"
    assert await apply(client, {"terms.csv": terms}) == {"term": {"add": 2, "refused": 1}}
    assert await refusals(client, 1) == [["terms.csv", "4", "", "unknown_term"]]
    listed = (await call(client, "GET", "/terms")).body["items"]
    assert [(each["code"], each["parent_id"]) for each in listed] == [("2026F", None), ("2026F-1", listed[0]["id"])]


async def test_defective_rows_are_named_and_the_good_ones_imported(client: Client) -> None:
    files = {
        "students.csv": "external_id,given_name,email,max_credits\n"
        "S-1,Ada,ada@campus.example,18\n"
        "S-2,Bob,not-an-address,\n"
        "S-3,Eve,,many\n"
        ",Nobody,,\n"
        "S-1,Twin,,\n"
        "S-5,Short\n"
        "S 6,Blank,,\n"
        "S-7,,,\n",
        "enrollments.csv": "student_external_id,course_external_id,status,grade\nS-1,C-9,,\nS-1,C-9,gone,\nS-1,C-9,,A\n",
    }
    planned = await plan(client, files)

    assert await refusals(client, planned["id"]) == [
        ["enrollments.csv", "2", "", "unknown_course"],
        ["enrollments.csv", "3", "status", "not_an_option"],
        ["enrollments.csv", "4", "grade", "result_without_completion"],
        ["students.csv", "3", "email", "not_an_email"],
        ["students.csv", "4", "max_credits", "wrong_type"],
        ["students.csv", "5", "external_id", "required"],
        ["students.csv", "6", "", "repeated_row"],
        ["students.csv", "7", "", "wrong_cell_count"],
        ["students.csv", "8", "external_id", "forbidden_character"],
        ["students.csv", "9", "", "name_required"],
    ]
    assert await counts(client, planned["id"]) == {"student": {"add": 1, "refused": 7}, "enrollment": {"refused": 3}}
    shown = (await call(client, "GET", f"/imports/{planned['id']}/plan")).body["samples"]
    assert [(each["action"], each["key"], each["line"]) for each in shown][:1] == [("add", "S-1", 2)]
    strict = await plan(client, files, "?strict=true")
    assert strict["problem"] == "strict: 10 rows are refused: mend them, or import without strict."


async def test_nothing_is_written_of_files_that_cannot_be_read(client: Client) -> None:
    header = "external_id,given_name\n"
    bomb = zipped({"students.csv": header + "A" * 2_000_000})
    for files, code in {
        zipped({"students.csv": header + 'S-1,"Ada\n'}): "students.csv, line 2: unclosed_quote",
        zipped({"students.csv": header + 'S-1,A"da\nS-2,B"ob\n'}): "students.csv, line 2: stray_quote",
        zipped({"students.csv": header + "S-1,A\0da\n"}): "students.csv, line 2: nul",
        zipped(
            {"students.csv": (header + "S-1,Zoë\n").encode("latin-1")}
        ): "students.csv, line 2: wrong_encoding: Byte 7",
        zipped({"students.csv": ""}): "students.csv: empty_file",
        zipped({"students.csv": "," * 1_000_000}): "students.csv, line 1: too_many_columns",
        zipped({"students.csv": "external_id,shoe_size\n"}): "students.csv, line 1: unknown_column",
        zipped({"students.csv": "given_name\n"}): "students.csv, line 1: missing_column",
        zipped({"students.csv": "external_id,external_id\n"}): "students.csv, line 1: repeated_column",
        zipped({"../students.csv": header}): "../students.csv: unsafe_name",
        zipped({"data/students.csv": header}): "data/students.csv: not_at_root",
        zipped({"notes.txt": "x"}): "the import: no_known_file",
        bomb: "students.csv, line 2: line_too_long",
        bomb[:-60]: "import.zip: not_a_zip",
    }.items():
        failed = await plan(client, files)
        assert failed["state"] == "failed"
        assert failed["problem"].startswith(code), failed["problem"]
        problem(await call(client, "GET", f"/imports/{failed['id']}/plan"), 409, "no_plan")
        problem(await call(client, "POST", f"/imports/{failed['id']}/confirm"), 409, "no_plan")
    assert (await call(client, "GET", "/events")).body["items"] == []


async def test_an_upload_has_limits(client: Client, settings: Settings) -> None:
    problem(await send(client, b"x" * 100_001), 413, "body_too_large")
    problem(await send(client, b""), 422, "invalid")
    problem(await call(client, "POST", "/imports", {}), 415, "unsupported_media_type")
    csv = {"Content-Type": "text/csv"}
    problem(await call(client, "POST", "/imports", data=b"x", headers=csv), 422, "invalid")
    problem(await send(client, PLAIN, "?encoding=nonsense"), 422, "invalid")
    problem(await send(client, PLAIN, "?threshold=101"), 422, "invalid")
    assert [*settings.spool.iterdir()] == []
    problem(await call(client, "GET", "/imports/9"), 404, "import_not_found")

    data = "\ufeffexternal_id\tgiven_name\nS-1\tZoë\n".encode("utf-16-le")
    answer = await call(client, "POST", "/imports?file=students.csv", data=data, headers=csv)
    assert await counts(client, (await until(client, answer.body["id"], "planned"))["id"]) == {"student": {"add": 1}}
    cancelled = await call(client, "POST", f"/imports/{answer.body['id']}/cancel")
    assert cancelled.body["state"] == "cancelled"
    assert (await call(client, "POST", f"/imports/{answer.body['id']}/cancel")).body == cancelled.body
    assert [*settings.spool.iterdir()] == []


MANIFEST_1_1 = "propertyName,value\nmanifest.version,1.0\noneroster.version,1.1\n"
ONEROSTER = {
    "manifest.csv": MANIFEST_1_1
    + "".join(
        f"file.{name},bulk\n" for name in ("academicSessions", "classes", "courses", "enrollments", "orgs", "users")
    ),
    "orgs.csv": "sourcedId,status,dateLastModified,name,type,identifier,parentSourcedId\norg,,,School,school,1,\n",
    "academicSessions.csv": "sourcedId,status,dateLastModified,title,type,startDate,endDate,parentSourcedId,schoolYear\n"
    "gp1,,,Quarter,gradingPeriod,2026-09-01,2026-11-01,t1,2026-2027\n"
    "t1,,,Fall,term,2026-09-01,2099-12-19,y1,2026-2027\n"
    "y1,,,Year,schoolYear,2026-08-01,2099-12-31,,2026-2027\n",
    "courses.csv": "sourcedId,status,dateLastModified,schoolYearSourcedId,title,courseCode,grades,orgSourcedId,subjects,"
    "subjectCodes\nc1,,,y1,Calculus,MATH101,,org,,\n",
    "classes.csv": "sourcedId,status,dateLastModified,title,grades,courseSourcedId,classCode,classType,location,"
    "schoolSourcedId,termSourcedIds,subjects,subjectCodes,periods\n"
    'k1,,,Calculus A,,c1,MATH101-A,scheduled,,org,"t1,gp1",,,\n'
    "k2,,,Club,,c1,B,scheduled,,org,y1,,,\n",
    "users.csv": "sourcedId,status,dateLastModified,enabledUser,orgSourcedIds,role,username,userIds,givenName,familyName,"
    "middleName,identifier,email,sms,phone,agentSourcedIds,grades,password\n"
    "u1,,,true,org,student,ada,,Ada,Lovelace,,S-1,ada@campus.example,,,,,secret\n"
    "u2,,,true,org,student,sukarno,,,Sukarno,,,,,,,,\n"
    "u3,,,true,org,teacher,emmy,,Emmy,Noether,,,,,,,,\n"
    "u4,,,true,org,parent,byron,,Lady,Byron,,,,,,,,\n",
    "enrollments.csv": "sourcedId,status,dateLastModified,classSourcedId,schoolSourcedId,userSourcedId,role,primary,beginDate,"
    "endDate\n"
    "e1,,,k1,org,u1,student,,,\n"
    "e2,,,k1,org,u2,student,false,,\n"
    "e3,active,,k1,org,u3,teacher,true,,\n",
}
BASE = ",".join(ONEROSTER["enrollments.csv"].splitlines()[:1])


async def test_oneroster_becomes_terms_courses_people_and_enrollments(client: Client) -> None:
    assert await apply(client, ONEROSTER, "?source=sis") == {
        "term": {"add": 1},
        "course": {"add": 2},
        "instructor": {"add": 1},
        "student": {"add": 2},
        "teaching": {"add": 1},
        "enrollment": {"add": 2},
    }
    [term] = (await call(client, "GET", "/terms")).body["items"]
    assert (term["code"], term["ends_on"]) == ("Fall", "2099-12-18")
    courses = (await call(client, "GET", "/courses")).body["items"]
    assert [(each["external_id"], each["code"], each["section"], each["term_id"]) for each in courses] == [
        ("k1", "MATH101", "A", term["id"]),
        ("k2", "MATH101", "B", None),
    ]
    students = (await call(client, "GET", "/students")).body["items"]
    assert [(each["sourced_id"], each["external_id"], each["given_name"]) for each in students] == [
        ("u1", "S-1", "Ada"),
        ("u2", None, None),
    ]
    warnings = (await call(client, "GET", "/imports/1/plan")).body["warnings"]
    assert [(each["file"], each["code"]) for each in warnings] == [
        ("enrollments.csv", "status_in_bulk_file"),
        ("users.csv", "other_role"),
    ]
    assert "secret" not in json.dumps((await call(client, "GET", "/imports/1/plan")).body)
    assert (await apply(client, ONEROSTER, "?source=sis"))["enrollment"] == {"unchanged": 2}

    delta = {
        "manifest.csv": MANIFEST_1_1 + "file.enrollments,delta\nfile.users,delta\n",
        "users.csv": ONEROSTER["users.csv"].splitlines()[0]
        + "\nu1,active,2026-10-01T00:00:00.000Z,true,org,student,ada,,Augusta,Lovelace,,S-1,ada@campus.example,,,,,\n"
        + "u2,tobedeleted,2026-10-01T00:00:00.000Z,true,org,student,,,,Sukarno,,,,,,,,\n",
        "enrollments.csv": f"{BASE}\ne2,tobedeleted,2026-10-01T00:00:00.000Z,k1,org,u2,student,,,\n"
        "e4,,2026-10-01T00:00:00.000Z,k1,org,u1,student,,,\n",
    }
    assert await apply(client, delta, "?source=sis&threshold=100") == {
        "student": {"change": 1, "refused": 1},
        "enrollment": {"drop": 1, "refused": 1},
    }
    assert await statuses(client) == [(1, 1, "enrolled"), (2, 1, "dropped")]
    assert await refusals(client, 3) == [
        ["enrollments.csv", "3", "status", "required"],
        ["users.csv", "3", "", "in_use"],
    ]


async def test_defects_of_oneroster_are_named(client: Client) -> None:
    for changed, expected in (
        ({"manifest.csv": ONEROSTER["manifest.csv"].replace("1.1", "2.0")}, "manifest.csv, line 3: wrong_manifest"),
        ({"manifest.csv": ONEROSTER["manifest.csv"] + "file.results,bulk\n"}, "manifest.csv, line 10: missing_file"),
        ({"manifest.csv": ONEROSTER["manifest.csv"] + "file.roles,some\n"}, ""),
        ({"results.csv": "sourcedId\n"}, "manifest.csv: file_not_in_manifest"),
        (
            {"users.csv": ONEROSTER["users.csv"].replace("givenName", "givenname")},
            "users.csv, line 1: missing_column: The column givenName is missing. It is there as givenname",
        ),
    ):
        failed = await plan(client, {**ONEROSTER, **changed})
        assert (failed["problem"] or "").startswith(expected)
        assert failed["state"] == ("failed" if expected else "planned")
    rows = {
        "classes.csv": ONEROSTER["classes.csv"]
        + "k3,,,Lost,,c9,X,scheduled,,org,t1,,,\nk4,,,Lost,,c1,X,scheduled,,org,t9,,,\n",
        "enrollments.csv": ONEROSTER["enrollments.csv"]
        + "e5,,,k9,org,u1,student,,,\ne6,,,k1,org,u4,student,,,\ne7,gone,,k1,org,u1,student,,,\n",
        "academicSessions.csv": ONEROSTER["academicSessions.csv"] + "t2,,,Bad,term,2026-09-01,soon,,2027\n",
    }
    planned = await plan(client, {**ONEROSTER, **rows})
    assert await refusals(client, planned["id"]) == [
        ["classes.csv", "4", "courseSourcedId", "unknown_course"],
        ["classes.csv", "5", "termSourcedIds", "unknown_term"],
        ["enrollments.csv", "5", "", "unknown_course"],
        ["enrollments.csv", "6", "", "unknown_student"],
        ["enrollments.csv", "7", "status", "not_an_option"],
        ["academicSessions.csv", "5", "endDate", "not_a_date"],
    ]


async def test_an_import_that_is_killed_goes_on_and_ends_in_the_same_state(
    client: Client, settings: Settings, connection: Connection, tmp_path: Path
) -> None:
    await apply(client, {name: PLAIN[name] for name in ("terms.csv", "courses.csv", "instructors.csv")})
    path = tmp_path / "files.zip"
    path.write_bytes(zipped(PLAIN))
    few = settings.model_copy(update={"import_chunk": 2})
    killed = 0
    async with registrar_of(settings) as registrar:
        assert client.app is not None
        database = client.app[DATABASE]

        async def work(steps: int) -> None:
            """Work on the queue as a process that ends after some steps, without a word to any other."""

            def die(*_: object) -> None:
                nonlocal steps
                steps -= 1
                if steps < 0:
                    raise asyncio.CancelledError

            importer = Importer(database, registrar, few, die)
            claimed = await importer.claim()
            assert claimed is not None
            await importer.work(claimed)

        [added] = await sql.add_import(
            connection, source="import", name="files.zip", path=str(path), options=Options().json, actor=None
        )
        for state in ("planned", "done"):
            for steps in range(100):
                try:
                    await work(steps)
                except asyncio.CancelledError:
                    killed += 1
                    assert await Importer(database, registrar, few).claim() is None, "another process works on it"
                    await connection.execute("UPDATE imports SET leased_until = now() WHERE runner IS NOT NULL")
                    continue
                break
            found = await sql.get_import(connection, added.id)
            assert found is not None
            assert found.state == state
            if state == "planned":
                assert await sql.confirm_import(connection, added.id) == [added.id]
    assert killed > 10
    assert await counts(client, added.id) == {
        "term": {"unchanged": 1},
        "course": {"unchanged": 2},
        "instructor": {"unchanged": 1},
        "student": {"add": 3},
        "teaching": {"add": 1},
        "enrollment": {"add": 3},
    }
    assert await statuses(client) == [(1, 1, "enrolled"), (1, 2, "enrolled"), (2, 1, "enrolled")]
    types = Counter(event["type"] for event in (await call(client, "GET", "/events")).body["items"])
    assert types["student.created"] == types["enrollment.enrolled"] == 3


async def test_imports_need_their_scopes(client: Client) -> None:
    admin = await new_key(client, "admin")
    manage = await new_key(client, "manage", key=admin)
    enroll = await new_key(client, "manage", "enroll", key=admin)
    csv = {"Content-Type": "text/csv"}
    data = PLAIN["students.csv"].encode()
    for key, query, status in ((manage, "", 403), (enroll, "&as_recorded=true", 403), (enroll, "", 202)):
        headers = {**csv, "Authorization": f"Bearer {key}"}
        answer = await call(client, "POST", f"/imports?file=students.csv{query}", data=data, headers=headers)
        assert answer.status == status, answer
    read = {"Authorization": f"Bearer {await new_key(client, 'read', key=admin)}"}
    problem(
        await call(client, "POST", "/exports", {"format": "oneroster-1.2", "after": 0}, headers=read),
        403,
        "scope_missing",
    )
    problem(await call(client, "GET", "/imports", headers=read), 403, "scope_missing")


async def test_old_imports_are_deleted_with_their_rows(
    client: Client, connection: Connection, settings: Settings
) -> None:
    await apply(client, PLAIN)
    for name in ("upload-1.zip", "upload-2.zip"):
        (settings.spool / name).touch()
    os.utime(settings.spool / "upload-1.zip", (0, 0))
    await connection.execute("UPDATE imports SET updated_at = now() - interval '8 days'")
    assert client.app is not None
    await client.app[WORKER].look()
    assert [path.name for path in settings.spool.iterdir()] == ["upload-2.zip"]
    assert [await connection.fetchval(f"SELECT count(*) FROM {name}") for name in ("imports", "import_rows")] == [0, 0]


async def test_the_command_shows_a_plan_and_reports_rows_that_can_be_mended(database_url: str, tmp_path: Path) -> None:
    folder, report = tmp_path / "files", tmp_path / "report"
    folder.mkdir()
    for name, text in {**PLAIN, "students.csv": PLAIN["students.csv"] + "S-4,Eve,,nowhere,\n"}.items():
        (folder / name).write_text(text)

    async def command(*arguments: object) -> Ended:
        return await run(*map(str, arguments), DATABASE_URL=database_url)

    first = ("import", folder, "--report", report)
    assert (await command("import", tmp_path / "nothing")).status == 1
    assert (await command(*first, "--encoding", "nonsense")).status == 1
    strict = await command(*first, "--yes", "--strict")
    assert strict.status == 1
    assert "strict: 1 rows are refused" in strict.err
    planned = await command(*first, "--dry-run")
    assert planned.status == 0
    assert "students                           3           0           0           0           1" in planned.out
    assert "refused: not_an_email: 1" in planned.out

    applied = await command(*first, "--yes")
    assert applied.status == 3
    assert "11 added, 0 changed, 0 dropped, 0 unchanged, 1 refused" in applied.out
    [mended] = report.iterdir()
    text = mended.read_text()
    assert (
        text.splitlines()[0]
        == "external_id,given_name,family_name,email,groups,error_line,error_column,error_code,error"
    )
    mended.write_text(text.replace("nowhere", "eve@campus.example"))
    again = await command("import", report, "--yes")
    assert again.status == 0
    assert "1 added" in again.out
    export = ("export", tmp_path / "all.zip", "--format", "plain")
    assert (await command(*export)).status == 0
    refused = await command(*export)
    assert refused.status == 1
    assert "exists" in refused.err
