"""The data of one person: the export has all of it, and the erasure leaves none of it anywhere."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import aiohttp
import psycopg
import pytest
from pytest_aiohttp import AiohttpClient

from service.api.students import NewStudent
from service.check import INVARIANTS
from service.registrar.changes import Origin
from service.registrar.holds import PlaceHold
from service.registrar.overrides import EndOverride, GrantOverride
from service.registrar.privacy import IDENTIFYING, Erase, pseudonymous
from service.registrar.resources import Create
from service.registrar.students import STUDENT
from service.settings import Settings
from sql import Connection
from sql.students import Student
from tests import shared
from tests.campus import (
    call,
    drop,
    enroll,
    events,
    everything,
    join_waitlist,
    new_course,
    new_student,
    problem,
    read,
    registrar_of,
    served,
    student_fields,
    walk,
)
from tests.conftest import Client
from tests.provider import provider, with_issuer
from tests.test_auth import bearer
from tests.test_imports import apply
from tests.test_process import run, serving

pytestmark, service, client, connection, settings = shared.SERVICE
aiohttp_client = shared.AIOHTTP_CLIENT

CANARY = "canary"
NAMES: dict[str, Any] = {
    "given_name": f"{CANARY}-given",
    "family_name": f"{CANARY}-family",
    "email": f"{CANARY}@campus.example",
    "external_id": f"{CANARY}-number",
    "sourced_id": f"{CANARY}-sis",
    "preferred_name": f"{CANARY}-called",
    "groups": [f"{CANARY}:a", f"{CANARY}:b"],
}
SPEAKING = {"X-Actor": f"{CANARY}-actor"}
REASON = f"reason={CANARY}-drop"


async def canaries(connection: Connection) -> list[tuple[str, str]]:
    """Return every row of every table of every schema that contains a canary."""
    found = []
    for schema, table in await connection.fetch(
        "SELECT relnamespace::regnamespace::text, relname FROM pg_class WHERE relkind = 'r' "
        "AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)"
    ):
        rows = await connection.fetch(
            # The text of a row has bytes in hexadecimal.
            f'SELECT each::text FROM "{schema}"."{table}" AS each WHERE each::text ILIKE ANY($1)',
            [f"%{CANARY}%", f"%{CANARY.encode().hex()}%"],
        )
        found += [(table, row[0]) for row in rows]
    return found


async def faults(connection: Connection) -> dict[str, Any]:
    return {name: found for name, find in INVARIANTS.items() if (found := await find(connection))}


async def plant(client: Client) -> tuple[int, int]:
    """Write a canary into each text about a student that a call takes; return the student and another one."""

    async def do(method: str, path: str, body: object = None) -> Any:
        answer = await call(client, method, path, body, headers=SPEAKING)
        assert answer.status < 300, answer
        return answer.body

    key = {"Idempotency-Key": f'"{CANARY}"'}
    student = int((await call(client, "POST", "/students", NAMES, headers={**SPEAKING, **key})).body["id"])
    await do("PATCH", f"/students/{student}", {"family_name": f"{CANARY}-married"})
    await do("PUT", f"/students/by-external-id/{NAMES['external_id']}", {**NAMES, "max_credits": 18})
    other = await new_student(client)
    full, second = await new_course(client, capacity=1), await new_course(client)
    await do("POST", f"/students/{student}/enroll", {"course_ids": [full, second]})
    items = [{"student_id": student, "course_ids": [await new_course(client)]}]
    await do("POST", "/enrollments", {"items": items})
    await join_waitlist(client, other, full)
    for _ in range(2):
        hold = await do("POST", f"/students/{student}/holds", {"reason": f"{CANARY}-hold", "blocks": ["enroll"]})
    await do("DELETE", f"/students/{student}/holds/{hold['id']}")
    override = {"rule": "hold", "author": f'{CANARY} "author" \\', "reason": f"{CANARY}-override"}
    for course in (full, second):
        granted = await do("POST", f"/students/{student}/overrides", {**override, "course_id": course})
    await do("DELETE", f"/students/{student}/overrides/{granted['id']}")
    # The other student gets the seat; the reason of the drop is no business of hers.
    await do("DELETE", f"/students/{student}/courses/{full}?{REASON}")
    await do("POST", f"/students/{student}/courses/{second}/complete", {"passed": True, "grade": "A"})
    external_id = NAMES["external_id"]
    rows = f"{external_id},{NAMES['family_name']},{NAMES['email']}", f"{external_id},{CANARY}-twice,{NAMES['email']}"
    await apply(
        client,
        {
            "students.csv": "\n".join(["external_id,family_name,email", *rows]),
            "enrollments.csv": f"student_external_id,course_external_id\n{external_id},{CANARY}-nowhere\n",
        },
    )
    return student, other


async def erase(client: Client, student: int, **headers: str) -> Any:
    answer = await call(client, "POST", f"/students/{student}/erase", {"reason": "Art. 17"}, headers=headers)
    assert answer.status == 200, answer
    return answer.body


async def test_an_erasure_leaves_no_text_about_the_student_in_any_table(client: Client, connection: Connection) -> None:
    student, other = await plant(client)
    assert {table for table, _ in await canaries(connection)} == {
        "students",
        "holds",
        "overrides",
        "events",
        "idempotency_keys",
        "import_rows",
        "source_rows",
    }
    before, feed_before = await everything(connection), await events(connection)
    others = [event for event in feed_before if event["student_id"] != student]

    erased = await erase(client, student)

    assert await canaries(connection) == []
    name = f"erased-{student}"
    assert (erased["given_name"], erased["family_name"], erased["external_id"]) == ("erased", name, name)
    assert erased["email"] == f"{name}@erased.invalid"
    assert await read(client, f"/students/{student}") == erased
    assert await faults(connection) == {}

    # The numbers stay.
    after, feed = await everything(connection), await events(connection)
    for table in ("courses", "terms", "student_courses", "requirements"):
        assert after[table] == before[table]
    assert [row for row in after["students"] if row[0] == other] == [
        row for row in before["students"] if row[0] == other
    ]
    *earlier, last = feed
    kept = ("position", "type", "occurred_at", "request_id", "student_id", "course_id", "term_id", "actor")
    assert [[event[name] for name in kept] for event in earlier] == [
        [event[name] for name in kept] for event in feed_before
    ]
    assert [event for event in earlier if event["student_id"] != student] == others
    for old, new in zip(feed_before, earlier, strict=True):
        for state in ("before", "after"):
            assert new[state] == old[state] or old[state] == {**new[state], "author": old[state]["author"]}
    assert (last["type"], last["reason"]) == ("student.erased", "Art. 17")
    assert last["after"] == {"fields": [*IDENTIFYING], "version": erased["version"]}
    assert {*IDENTIFYING} == {*NAMES}
    await walk(client, "/students")
    assert (await call(client, "GET", "/events?limit=500")).status == 200


async def test_the_events_of_other_students_never_have_the_texts_of_a_change(
    client: Client, connection: Connection
) -> None:
    student, other = await plant(client)
    promoted = [each for each in await events(connection) if each["type"] == "enrollment.promoted"]
    assert [(each["student_id"], each["reason"], each["on_behalf_of"]) for each in promoted] == [(other, None, None)]
    dropped = [each for each in await events(connection) if each["type"] == "enrollment.dropped"]
    assert [(each["student_id"], each["reason"]) for each in dropped] == [(student, f"{CANARY}-drop")]
    assert dropped[0]["request_id"] == promoted[0]["request_id"]


async def test_a_cursor_of_the_feed_stays_valid(client: Client) -> None:
    student, _ = await plant(client)
    cursors, here = [], (await read(client, "/events?limit=1"))["next"]
    head = (await read(client, "/events/head"))["next"]
    while here != head:
        cursors.append(here)
        here = (await read(client, f"/events?limit=1&after={here}"))["next"]
    await erase(client, student)
    assert len(cursors) > 10
    for number, cursor in enumerate([*cursors, head], start=2):
        [event] = (await read(client, f"/events?limit=1&after={cursor}"))["items"]
        assert event["position"] == number


async def test_a_second_erasure_changes_nothing_until_something_is_added(
    client: Client, connection: Connection
) -> None:
    student, _ = await plant(client)
    first = await erase(client, student, **SPEAKING)
    before = await everything(connection)
    assert await erase(client, student, **SPEAKING) == first
    assert await everything(connection) == before

    await call(client, "POST", f"/students/{student}/holds", {"reason": f"{CANARY}-late", "blocks": ["drop"]})
    again = await erase(client, student)
    assert again["version"] == first["version"] + 1
    assert [event["type"] for event in (await events(connection))[-2:]] == ["hold.placed", "student.erased"]
    assert await faults(connection) == {}
    # Who erased whom, and why, stays: it is not about the student.
    assert [text for table, text in await canaries(connection) if table != "events"] == []
    assert [each["on_behalf_of"] for each in await events(connection) if each["type"] == "student.erased"] == [
        SPEAKING["X-Actor"],
        None,
    ]


async def test_a_student_without_an_external_id_gets_none(client: Client) -> None:
    student = await new_student(client)
    assert (await erase(client, student))["external_id"] is None
    problem(await call(client, "POST", "/students/999/erase", {"reason": "x"}), 404, "student_not_found")
    problem(await call(client, "POST", f"/students/{student}/erase", {}), 422, "invalid")


async def test_a_refused_erasure_leaves_every_text(client: Client, connection: Connection) -> None:
    student, other = await plant(client)
    for taken, code in (
        ({"external_id": f"erased-{student}"}, "external_id_taken"),
        ({"email": f"ERASED-{student}@erased.invalid"}, "email_taken"),
    ):
        assert (await call(client, "PATCH", f"/students/{other}", {"external_id": None, **taken})).status == 200
        before = await everything(connection)
        answer = await call(client, "POST", f"/students/{student}/erase", {"reason": "Art. 17"})
        problem(answer, 409, code)
        assert await everything(connection) == before
    assert (await call(client, "PATCH", f"/students/{other}", {"email": None})).status == 200
    await new_student(client, sourced_id=f"erased-{student}")
    answer = await call(client, "POST", f"/students/{student}/erase", {"reason": "Art. 17"})
    problem(answer, 409, "sourced_id_taken")


async def test_a_deleted_student_leaves_no_text_in_the_events(client: Client, connection: Connection) -> None:
    student = (await call(client, "POST", "/students", NAMES, headers=SPEAKING)).body["id"]
    course = await new_course(client)
    override = {"rule": "hold", "author": CANARY, "reason": CANARY, "course_id": course}
    await call(client, "POST", f"/students/{student}/overrides", override, headers=SPEAKING)
    assert (await call(client, "DELETE", f"/students/{student}", headers=SPEAKING)).status == 204
    # Other systems must learn which student was deleted.
    [(table, text)] = await canaries(connection)
    assert (table, text.count(CANARY)) == ("tombstones", 1)
    assert NAMES["sourced_id"] in text
    assert await faults(connection) == {}


async def test_a_student_who_was_erased_first_leaves_no_sourced_id(client: Client, connection: Connection) -> None:
    student = (await call(client, "POST", "/students", NAMES, headers=SPEAKING)).body["id"]
    await erase(client, student)
    assert (await call(client, "DELETE", f"/students/{student}")).status == 204
    assert await canaries(connection) == []


async def test_the_erasure_of_a_student_removes_the_sourced_ids_of_duplicates(
    client: Client, connection: Connection
) -> None:
    duplicate = (await call(client, "POST", "/students", NAMES)).body["id"]
    student = await new_student(client)
    answer = await call(client, "POST", f"/students/{student}/merge", {"student_id": duplicate, "reason": "double"})
    assert answer.status == 200, answer
    assert "tombstones" in {table for table, _ in await canaries(connection)}
    await erase(client, student)
    assert await canaries(connection) == []


async def test_an_actor_whose_name_is_that_of_the_student_gets_a_pseudonym(
    settings: Settings, connection: Connection
) -> None:
    fields: Any = {**NAMES, "max_credits": None, "groups": f"{CANARY}:a"}
    async with registrar_of(settings) as registrar:
        by = {name: Origin(request_id="r", actor=actor) for name, actor in (("staff", "dean"), ("own", NAMES["email"]))}
        row = await registrar.submit(Create(origin=by["staff"], resource=STUDENT, fields=fields))
        hold: Any = {"student_id": row.id, "reason": "x", "blocks_enroll": True, "blocks_drop": False}
        await registrar.submit(PlaceHold(origin=by["own"], **hold))
        await registrar.submit(Erase(origin=by["staff"], student_id=row.id))
    assert [each["actor"] for each in await events(connection)] == ["dean", f"erased-{row.id}", "dean"]
    assert await canaries(connection) == []


async def test_changes_before_and_after_an_erasure_in_the_same_transaction(
    settings: Settings, connection: Connection
) -> None:
    """The texts of the changes before are erased with the others, and none returns from memory with those after."""
    fields: Any = {**NAMES, "max_credits": None, "groups": f"{CANARY}:a"}
    origin = Origin(request_id="r", on_behalf_of=CANARY, reason=CANARY)
    quiet = Origin(request_id="r", reason="Art. 17")
    await connection.execute("INSERT INTO courses (code, title) VALUES ('A', 'A')")
    async with registrar_of(settings) as registrar:
        row = await registrar.submit(Create(origin=origin, resource=STUDENT, fields=fields))
        texts: Any = {"student_id": row.id, "course_id": 1, "rule": "hold", "author": CANARY, "reason": CANARY}
        first, *_, ended, again = await registrar.submit_all(
            [
                GrantOverride(origin=origin, **texts),
                PlaceHold(origin=origin, student_id=row.id, reason=CANARY, blocks_enroll=True, blocks_drop=False),
                Erase(origin=quiet, student_id=row.id),
                EndOverride(origin=quiet, student_id=row.id, override_id=1),
                Erase(origin=quiet, student_id=row.id),
            ]
        )
    assert not any(isinstance(each, Exception) for each in (first, ended, again))
    assert await canaries(connection) == []
    feed = await events(connection)
    assert [each["type"] for each in feed] == [
        "student.created",
        "override.granted",
        "hold.placed",
        "student.erased",
        "override.ended",
        "student.erased",
    ]
    assert feed[-2]["before"]["author"] == "erased"
    assert feed[-1]["after"]["fields"] == [], "only the reason of the end of the override was left"
    assert {name: found for name, found in (await faults(connection)).items() if "course" not in name} == {}


async def test_many_callers_at_once_change_and_erase_a_student(client: Client, connection: Connection) -> None:
    student, other = await plant(client)
    course = await new_course(client)
    body = {"reason": f"{CANARY}-late", "blocks": ["drop"]}
    work = [
        *[call(client, "POST", f"/students/{student}/erase", {"reason": "Art. 17"}) for _ in range(4)],
        *[call(client, "POST", f"/students/{student}/holds", body, headers=SPEAKING) for _ in range(8)],
        *[enroll(client, other, course), drop(client, other, course), enroll(client, student, course)],
        *[call(client, "PATCH", f"/students/{student}", {"given_name": f"{CANARY}-{n}"}) for n in range(4)],
    ]
    answers = await asyncio.gather(*work)
    assert {answer.status for answer in answers} <= {200, 201, 404, 409}
    assert (await erase(client, student))["given_name"] == "erased"
    assert await canaries(connection) == []
    assert await faults(connection) == {}


async def test_the_pseudonym_is_valid() -> None:
    now = datetime.now(UTC)
    erased = pseudonymous(Student(7, "S", "I", "A", "B", "C", "a@b.example", None, "G", 1, now, now))
    fields = {name: getattr(erased, name) for name in NewStudent.model_fields if name != "groups"}
    assert NewStudent.model_validate(fields).email == erased.email
    assert pseudonymous(erased) == erased
    assert (erased.preferred_name, erased.groups) == (None, "")


EVENTS_OF_MANY = """
INSERT INTO events (position, type, occurred_at, request_id, student_id, course_id)
SELECT n, 'enrollment.enrolled', now(), 'r', n, n % 100 FROM generate_series(1, 20000) AS n;
ANALYZE events
"""


@pytest.fixture
def owner(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.mark.not_on_citus("the scans are those of the node that holds the schema")
async def test_an_erasure_reads_the_history_of_the_student_alone(owner: psycopg.Connection[Any]) -> None:
    owner.execute(EVENTS_OF_MANY)
    with owner.transaction():
        assert owner.execute("SELECT redact_events('{1,2}', '{x}')").fetchall() == []
        scans = owner.execute("SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'events'").fetchone()
    assert scans == (0,)


# The export.


async def test_an_export_has_everything_that_is_held(client: Client, connection: Connection) -> None:
    student, other = await plant(client)
    export = await read(client, f"/students/{student}/export?limit=500")

    assert export["student"] == await read(client, f"/students/{student}")
    assert export["next"] is None
    assert export["holds"] == (await read(client, f"/students/{student}/holds"))["items"]
    assert export["overrides"] == (await read(client, f"/students/{student}/overrides"))["items"]
    feed = (await read(client, "/events?limit=500"))["items"]
    assert export["events"] == [event for event in feed if event["student_id"] == student]
    rows = await connection.fetch("SELECT * FROM student_courses WHERE student_id = $1 ORDER BY course_id", student)
    assert [(each["course_id"], each["status"], each["grade"]) for each in export["enrollments"]] == [
        (row["course_id"], row["status"], row["grade"]) for row in rows
    ]
    assert [each["status"] for each in export["enrollments"]] == ["dropped", "completed", "enrolled"]
    columns = {*rows[0].keys()} - {"student_id", "joined_position", "recheck_at", "blocked_reasons"}
    assert columns == {*export["enrollments"][0]} - {"course_code", "blocked_by"}
    # Whatever the tables hold about the student is in it.
    text = str(export)
    for value in (
        *NAMES["groups"],
        *(name for name in NAMES.values() if isinstance(name, str)),
        f"{CANARY}-hold",
        f"{CANARY}-override",
        f"{CANARY}-actor",
        f"{CANARY}-drop",
    ):
        assert value in text, value
    assert await read(client, f"/students/{other}/export") != export
    problem(await call(client, "GET", "/students/999/export"), 404, "student_not_found")


@pytest.mark.parametrize("limit", [1, 3])
async def test_the_pages_of_an_export_put_together_are_the_export(client: Client, limit: int) -> None:
    student, _ = await plant(client)
    whole = await read(client, f"/students/{student}/export?limit=500")
    names = ("enrollments", "holds", "overrides", "events")
    joined: dict[str, list[Any]] = {name: [] for name in names}
    path: str | None = f"/students/{student}/export?limit={limit}"
    pages = 0
    while path is not None:
        answer = await call(client, "GET", path)
        assert answer.status == 200
        page, pages = answer.body, pages + 1
        assert sum(len(page[name]) for name in names) <= limit
        for name in names:
            joined[name] += page[name]
        link = answer.headers.get("Link")
        assert (link is None) == (page["next"] is None)
        path = None if link is None else link.removeprefix("<").partition(">")[0]
        assert pages < 100
    assert joined == {name: whole[name] for name in names}
    assert pages >= sum(map(len, joined.values())) / limit


async def test_a_cursor_of_another_list_is_refused(client: Client) -> None:
    first, second = await new_student(client), await new_student(client)
    await call(client, "PATCH", f"/students/{first}", {"given_name": "Eva"})
    cursor = (await read(client, f"/students/{first}/export?limit=1"))["next"]
    for path in (f"/students/{second}/export?cursor={cursor}", f"/students/{first}/export?cursor=x"):
        problem(await call(client, "GET", path), 422, "invalid")


async def test_nothing_that_a_caller_sends_about_a_student_is_logged(
    service_url: str, owner: psycopg.Connection[Any]
) -> None:
    """Run the service as operators do, as the role of the service, and search its whole output and the tables."""
    async with serving(DATABASE_URL=service_url, LOG_LEVEL="DEBUG") as running:
        async with aiohttp.ClientSession(running.url, headers=SPEAKING) as session:

            async def send(method: str, path: str, body: object = None) -> Any:
                async with session.request(method, path, json=body) as answer:
                    return await answer.json(content_type=None)

            student = (await send("POST", "/students", NAMES))["id"]
            await send("POST", "/courses", {"code": "A", "title": "A", "capacity": 1})
            await send("POST", "/students", {**NAMES, "email": f"{CANARY} no address"})
            await send("POST", "/students", NAMES)
            await send("POST", f"/students/{student}/holds", {"reason": f"{CANARY}-hold", "blocks": ["enroll"]})
            refused = await send("POST", f"/students/{student}/enroll", {"course_ids": [1]})
            assert f"{CANARY}-hold" in str(refused), "the caller is told"
            texts = {"rule": "hold", "author": CANARY, "reason": CANARY, "course_id": 1}
            await send("POST", f"/students/{student}/overrides", texts)
            await send("POST", f"/students/{student}/enroll", {"course_ids": [1]})
            await send("POST", f"/students/{student}/courses/1/complete", {"passed": True, "grade": f"{CANARY}"})
            await send("DELETE", f"/students/{student}/courses/1?{REASON}")
            await send("GET", f"/students?email={NAMES['email']}")
            await send("GET", f"/nowhere/{CANARY}?{REASON}")
            await send("POST", f"/students/{student}/erase", {"reason": "Art. 17"})
            await send("GET", f"/students/{student}/export")
        running.process.terminate()
        assert await running.ended() == 0
    assert len(running.log) > 14
    assert CANARY not in "\n".join([*running.log, *running.errors])
    # A grade is a number in this respect, and X-Actor of the erasure itself is not about the student.
    kept = owner.execute("SELECT type FROM events WHERE events::text LIKE '%%canary%%' AND student_id = %s", [student])
    assert {row[0] for row in kept} == {"enrollment.completed", "student.erased"}
    checked = await run("check", DATABASE_URL=service_url)
    assert checked.status == 0, checked


async def test_an_erased_student_is_not_found_by_a_token(aiohttp_client: AiohttpClient, settings: Settings) -> None:
    async with provider() as issuer:
        client = await served(aiohttp_client, with_issuer(settings, issuer))
        office = bearer(issuer.token(scope="manage admin"))
        body = student_fields(external_id="S-1")
        student = (await call(client, "POST", "/students", body, headers=office)).body["id"]
        portal = bearer(issuer.token(scope="self", student_number="S-1"))
        path = f"/students/{student}/export"
        assert (await call(client, "GET", path, headers=portal)).status == 200
        problem(
            await call(client, "POST", f"/students/{student}/erase", {"reason": "x"}, headers=portal),
            404,
            "no_such_path",
        )
        assert (await call(client, "POST", f"/students/{student}/erase", {"reason": "x"}, headers=office)).status == 200
        problem(await call(client, "GET", path, headers=portal), 404, "no_such_path")
