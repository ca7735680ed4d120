"""Students: create, read, list, edit, replace, delete."""

import asyncio
import base64
from collections import Counter
from uuid import UUID

import pytest

from sql import Connection
from tests import shared
from tests.campus import (
    Answer,
    call,
    create,
    enroll,
    events,
    everything,
    new_course,
    new_student,
    places,
    problem,
    read,
    student_fields,
    walk,
)
from tests.conftest import Client

pytestmark, service, client, connection, settings = shared.SERVICE

LINES_OF_TEXT = [
    *("X", "é", "李", "O'Brien-Smith Jr.", " Ada", "Ada ", "x" * 200, "🎓", "\u00a0x", '"', "\\", "<b>"),
    *(
        "\u0645\u06cc\u200c\u0634\u0648\u062f",
        "👩\u200d🎓",
        "\u05e9\u05dc\u05d5\u05dd\u200f",
        "ක්\u200dෂ",
        "ᠮᠣᠩᠭᠣᠯ\u180b",
        "\u2764\ufe0f",
    ),
]
NO_LINES_OF_TEXT: list[object] = [
    "",
    " ",
    "\u2003",
    "\u00a0",
    "x" * 201,
    "a\x00b",
    "a\nb",
    "a\tb",
    "\x7fb",
    "a\x1f",
    *(
        "\u200b",
        "\xad",
        "\u2800",
        "\u3164",
        "\u115f\u1160",
        "\uffa0",
        "\u034f",
        "\u2060",
        "\ufe0f",
        "\ufeff",
        "\u180e",
        "\u061c",
    ),
    *("\U000e0020", "\U000e0100", "\u200b \u2800", "\u200d\u200c"),
    *("a\u2028b", "a\u2029", "a\x85b", "a\u202eb", "\u202aa", "a\u2066b", "a\u2069"),
    1,
    True,
    [],
]

EMAILS = [
    *(
        "a@b",
        "A.B+c@d.example",
        "!#$%&'*/=?^_`{|}~@x",
        "x" * 252 + "@y",
        "ä@b.example",
        "用户@例子.测试",
        "ivan@почта.рф",
    ),
    *("a@b.test", "a@host.local", "a@localhost", "a@b.invalid"),
]
NO_EMAILS = [
    *("", "a", "@b", "a@", "a@b@c", "a b@c", "a@b\n", "a\x00@b", "x" * 253 + "@y", 1, ["a@b"]),
    *("a..b@c.example", ".a@b.example", "a@-b.example", "a@b..example", "a@[127.0.0.1]", '"a b"@c.example'),
    *("Ada <a@b.example>", "a\u200b@b.example", "a\u202eb@b.example", "a\xad@b.example"),
]

EXTERNAL_IDS = [
    "1",
    "a/b",
    "/",
    "?",
    "#",
    "%",
    "%2F",
    "a.b",
    ".a",
    "...a",
    "~",
    "!",
    "x" * 200,
    "a+b",
    "a;b",
    '"',
    "\\",
    *(
        "{",
        "}",
        "{x}",
        "%7B",
        "%257B",
        "a%2Fb",
        "é",
        "学号-1",
        "зачётка№7",
        "१२३",
        "ب",
        "1°",
        "\u00aa",
        "|",
        "^",
        "`",
        "<>",
        "🎓",
    ),
    *("./a", "../a", "a/..", "a/./b", "//", ";", "a=b&c", "@:", "[1]"),
]
NO_EXTERNAL_IDS = [
    *("", ".", "..", "...", " ", "a b", "a\x00", "\t", "x" * 201, 1, False),
    *("a\u00a0b", "a\u2003b", "\u3000", "a\u200bb", "\ufeffa", "a\u202eb", "a\u2028", "\u3164", "\u2800", "\ue000"),
]


async def test_a_new_student_is_read_back_as_created(client: Client) -> None:
    fields = {"given_name": "Zoë", "family_name": "李", "email": "Zoe@campus.example", "external_id": "S/1"}

    created = await call(client, "POST", "/students", fields)

    assert created.status == 201
    assert created.body.items() >= fields.items()
    assert created.body["version"] == 1
    assert created.body["created_at"] == created.body["updated_at"]
    assert created.body["created_at"].endswith("Z")
    assert created.headers["Location"] == f"/students/{created.body['id']}"
    found = await call(client, "GET", created.headers["Location"])
    assert (found.status, found.body, found.etag) == (200, created.body, created.etag)
    assert found.etag == '"1"'


async def test_many_students_may_have_no_external_id(client: Client) -> None:
    for _ in range(2):
        student = await create(client, "/students", student_fields())
        assert student["external_id"] is None


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("given_name", [*LINES_OF_TEXT, None], NO_LINES_OF_TEXT),
        ("family_name", [*LINES_OF_TEXT, None], NO_LINES_OF_TEXT),
        ("preferred_name", [*LINES_OF_TEXT, None], NO_LINES_OF_TEXT),
        ("email", [*EMAILS, None, None], NO_EMAILS),
        ("external_id", [*EXTERNAL_IDS, None], NO_EXTERNAL_IDS),
    ],
)
async def test_a_field_accepts_valid_values_and_refuses_all_others(
    client: Client, connection: Connection, field: str, good: list[object], bad: list[object]
) -> None:
    ids = []
    for value in good:
        created = await create(client, "/students", student_fields(**{field: value}))
        assert created[field] == value
        ids.append(created["id"])
    before = await everything(connection)

    for value in bad:
        answer = await call(client, "POST", "/students", student_fields(**{field: value}))
        assert [place for _, place in places(answer)] == [f"#/{field}"], value
        answer = await call(client, "PATCH", f"/students/{ids[0]}", {field: value})
        assert [place for _, place in places(answer)] == [f"#/{field}"], value

    assert await everything(connection) == before


async def test_each_unknown_field_gets_a_pointer(client: Client) -> None:
    answer = await call(client, "POST", "/students", {"given_name": "Ada", "e/mail~": "x", "id": 7})

    assert sorted(places(answer)) == [
        ("unknown_field", "#/e~1mail~0"),
        ("unknown_field", "#/id"),
    ]


async def test_a_body_that_is_not_an_object_is_invalid(client: Client) -> None:
    for body in (b"[]", b"null", b'"x"', b"7", b"true"):
        assert [place for _, place in places(await call(client, "POST", "/students", data=body))] == ["#"]


async def test_a_malformed_id_is_invalid_for_every_method(client: Client) -> None:
    for id in ("0", "-1", str(2**63), "9" * 40, "x", "1.0", "+1", "1e3", "%201", "%D9%A1", "1_0", "%00"):
        for method, body in (("GET", None), ("PATCH", {}), ("DELETE", None)):
            answer = await call(client, method, f"/students/{id}", body)
            assert [place for _, place in places(answer)] == ["student_id"], (method, id)


async def test_the_largest_id_is_not_found(client: Client) -> None:
    for method, body in (("GET", None), ("PATCH", {"given_name": "X"}), ("DELETE", None)):
        problem(await call(client, method, f"/students/{2**63 - 1}", body), 404, "student_not_found")


async def test_a_list_shows_every_student_once_by_id_over_all_its_pages(client: Client) -> None:
    ids = [await new_student(client) for _ in range(7)]

    pages = await walk(client, "/students?limit=3")

    assert [len(page) for page in pages] == [3, 3, 1]
    assert [student["id"] for page in pages for student in page] == ids


async def test_a_list_that_ends_with_a_full_page_has_no_empty_page_after_it(client: Client) -> None:
    ids = [await new_student(client) for _ in range(4)]

    pages = await walk(client, "/students?limit=2")

    assert [[student["id"] for student in page] for page in pages] == [ids[:2], ids[2:]]


async def test_an_empty_list_is_one_empty_page(client: Client) -> None:
    assert await read(client, "/students") == {"items": [], "next": None}


async def test_the_next_page_is_right_after_students_were_deleted_and_created(client: Client) -> None:
    ids = [await new_student(client) for _ in range(4)]
    first = await read(client, "/students?limit=2")
    assert (await call(client, "DELETE", f"/students/{ids[1]}")).status == 204
    assert (await call(client, "DELETE", f"/students/{ids[2]}")).status == 204
    ids.append(await new_student(client))

    rest = await read(client, f"/students?limit=9&cursor={first['next']}")

    assert [student["id"] for student in rest["items"]] == ids[3:]


async def test_a_page_has_50_items_by_default_and_500_at_most(client: Client, connection: Connection) -> None:
    await connection.execute(
        "INSERT INTO students (given_name, family_name, email) SELECT 'A', 'B', 'a@' || n FROM generate_series(1, 501) AS n"
    )

    assert len((await read(client, "/students"))["items"]) == 50
    assert len((await read(client, "/students?limit=1"))["items"]) == 1
    assert len((await read(client, "/students?limit=500"))["items"]) == 500
    for limit in ("0", "501", "-1", "x", "", "1.0", "%D9%A1", str(2**70)):
        assert [place for _, place in places(await call(client, "GET", f"/students?limit={limit}"))] == ["limit"]


async def test_a_student_is_found_by_email_in_any_case_and_by_the_exact_external_id(client: Client) -> None:
    await new_student(client)
    student = await create(client, "/students", student_fields(email="Ada@Campus.example", external_id="A/1?&"))

    for query in ("email=ADA@campus.EXAMPLE", "email=ada%40campus.example", "external_id=A%2F1%3F%26"):
        assert await read(client, f"/students?{query}") == {"items": [student], "next": None}
    for query in ("email=nobody@campus.example", "external_id=a/1?%26", "external_id=nobody"):
        assert await read(client, f"/students?{query}") == {"items": [], "next": None}


async def test_a_filter_that_no_student_can_match_is_invalid(client: Client) -> None:
    for name, value in (
        ("email", "x"),
        ("email", ""),
        ("email", "a@%00"),
        ("external_id", ""),
        ("external_id", "a%20b"),
    ):
        answer = await call(client, "GET", f"/students?{name}={value}")
        assert [place for _, place in places(answer)] == [name], value


def cursor_of(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


async def test_a_garbled_cursor_is_invalid(client: Client) -> None:
    garbled = ["", "x", "%00", "%C3%A9", "AAAA", "x" * 500]
    garbled += map(
        cursor_of,
        [
            "7",
            "null",
            '["students"]',
            '["students",-1]',
            '["students",true]',
            '["students",1.5]',
            '["students","1"]',
            f'["students",{2**63}]',
            '["courses",1]',
            '{"students":1,"x":2}',
            "[" * 300,
        ],
    )
    for cursor in garbled:
        answer = await call(client, "GET", f"/students?cursor={cursor}")
        assert places(answer) == [("invalid_cursor", "cursor")], cursor
    assert [place for _, place in places(await call(client, "GET", f"/students?cursor={'x' * 501}"))] == ["cursor"]


async def test_a_cursor_of_another_list_is_invalid(client: Client) -> None:
    for _ in range(2):
        await new_course(client)
    cursor = (await read(client, "/courses?limit=1"))["next"]

    assert places(await call(client, "GET", f"/students?cursor={cursor}")) == [("invalid_cursor", "cursor")]


async def test_a_patch_changes_the_fields_it_names_and_increments_the_version(client: Client) -> None:
    student = await create(client, "/students", student_fields(external_id="S1"))

    answer = await call(client, "PATCH", f"/students/{student['id']}", {"given_name": "Grace", "external_id": None})

    assert (answer.status, answer.etag) == (200, '"2"')
    assert answer.body == {
        **student,
        "given_name": "Grace",
        "external_id": None,
        "version": 2,
        "updated_at": answer.body["updated_at"],
    }
    assert answer.body["updated_at"] > student["updated_at"]
    assert await read(client, f"/students/{student['id']}") == answer.body


async def test_a_patch_is_json_or_a_merge_patch(client: Client) -> None:
    id = await new_student(client)

    for media_type in ("application/json", "application/merge-patch+json", 'application/json; charset="UTF-8"'):
        headers = {"Content-Type": media_type}
        answer = await call(client, "PATCH", f"/students/{id}", {"given_name": media_type}, headers=headers)
        assert (answer.status, answer.body["given_name"]) == (200, media_type)


async def test_a_patch_that_changes_nothing_makes_no_event_and_no_version(
    client: Client, connection: Connection
) -> None:
    student = await create(client, "/students", student_fields(external_id="S1"))
    before = await everything(connection)
    same = {name: student[name] for name in ("given_name", "family_name", "email", "external_id")}

    for patch in ({}, same, {"email": student["email"]}):
        answer = await call(client, "PATCH", f"/students/{student['id']}", patch)
        assert (answer.status, answer.body) == (200, student)

    assert await everything(connection) == before


def missing_names(answer: Answer) -> list[str]:
    """Return the places of the errors of a student without a name."""
    errors = problem(answer, 422, "name_required")["errors"]
    assert {error["code"] for error in errors} == {"name_required"}
    return [error["pointer"] for error in errors]


async def test_a_student_needs_one_of_the_two_names(client: Client, connection: Connection) -> None:
    only_given = await create(client, "/students", {"given_name": "Sukarno"})
    only_family = await create(client, "/students", {"family_name": "Teller", "given_name": None})
    assert (only_given["family_name"], only_family["given_name"]) == (None, None)
    before = await everything(connection)

    path = f"/students/{only_given['id']}"
    for answer in (
        await call(client, "POST", "/students", {}),
        await call(client, "POST", "/students", {"given_name": None, "family_name": None, "preferred_name": "Ada"}),
        await call(client, "PATCH", path, {"given_name": None}),
        await call(client, "PUT", "/students/by-external-id/S1", {"email": "a@b.example"}),
    ):
        assert missing_names(answer) == ["#/given_name", "#/family_name"]
    assert await everything(connection) == before

    moved = await call(client, "PATCH", path, {"given_name": None, "family_name": "Sukarno"})
    assert (moved.body["given_name"], moved.body["family_name"]) == (None, "Sukarno")
    await call(client, "PUT", "/students/by-external-id/S1", {"family_name": "X"})
    answer = await call(client, "PUT", "/students/by-external-id/S1", {})
    assert missing_names(answer) == ["#/given_name", "#/family_name"]


async def test_students_without_an_address_are_listed_edited_and_given_one(client: Client) -> None:
    fields = {**student_fields(), "email": None}
    first, second = [await create(client, "/students", fields) for _ in range(2)]
    assert (first["email"], second["email"]) == (None, None)
    taken = await new_student(client, email="ada@campus.example")

    answer = await call(client, "PATCH", f"/students/{first['id']}", {"email": "ADA@campus.example"})
    problem(answer, 409, "email_taken")
    assert (await call(client, "PATCH", f"/students/{taken}", {"email": None})).body["email"] is None
    answer = await call(client, "PATCH", f"/students/{first['id']}", {"email": "ADA@campus.example"})
    assert (answer.status, answer.body["email"]) == (200, "ADA@campus.example")
    course = await new_course(client)
    await enroll(client, second["id"], course)
    [row] = (await read(client, f"/courses/{course}/students"))["items"]
    assert row["student"] == {
        name: second[name] for name in ("id", "external_id", "given_name", "family_name", "preferred_name", "email")
    }


GROUPS: list[tuple[list[str], list[str]]] = [
    ([], []),
    (["year:2", "major:physics"], ["major:physics", "year:2"]),
    ([" honors ", "honors", "Honors"], ["Honors", "honors"]),
    (["fach:e\u0301tudes", "专业:物理"], ["fach:études", "专业:物理"]),
    (["x" * 100, '"', "{}", "\\", "NULL", "a b", "'"], ['"', "'", "NULL", "\\", "a b", "x" * 100, "{}"]),
    ([f"g{number:02}" for number in range(50)], [f"g{number:02}" for number in range(50)]),
]


@pytest.mark.parametrize(("sent", "kept"), GROUPS)
async def test_groups_are_kept_once_each_and_sorted(client: Client, sent: list[str], kept: list[str]) -> None:
    student = await create(client, "/students", student_fields(groups=sent))
    path = f"/students/{student['id']}"

    assert student["groups"] == kept
    assert await read(client, path) == student
    # The same groups in another order are no change.
    again = await call(client, "PATCH", path, {"groups": [*reversed(sent)]})
    assert again.body == student
    emptied = await call(client, "PATCH", path, {"groups": []})
    assert (emptied.body["groups"], emptied.body["version"]) == ([], 2 if kept else 1)


@pytest.mark.parametrize(
    ("groups", "code", "place"),
    [
        (["a,b"], "forbidden_character", "#/groups/0"),
        (["ok", ","], "forbidden_character", "#/groups/1"),
        ([""], "too_short", "#/groups/0"),
        (["  "], "forbidden_character", "#/groups/0"),
        (["a  b"], "forbidden_character", "#/groups/0"),
        (["a\x00"], "forbidden_character", "#/groups/0"),
        (["a\nb"], "forbidden_character", "#/groups/0"),
        (["x" * 101], "too_long", "#/groups/0"),
        ([f"g{number}" for number in range(51)], "too_long", "#/groups"),
        ([1], "wrong_type", "#/groups/0"),
        ("a", "wrong_type", "#/groups"),
        (None, "wrong_type", "#/groups"),
    ],
)
async def test_invalid_groups_are_refused(client: Client, groups: object, code: str, place: str) -> None:
    id = await new_student(client)

    for method, path, body in (
        ("POST", "/students", student_fields(groups=groups)),
        ("PATCH", f"/students/{id}", {"groups": groups}),
        ("PUT", "/students/by-external-id/S1", student_fields(groups=groups)),
    ):
        assert places(await call(client, method, path, body)) == [(code, place)]


async def test_a_sourced_id_is_generated_or_given_once(client: Client, connection: Connection) -> None:
    generated = await create(client, "/students", student_fields(sourced_id=None))
    given = await create(client, "/students", student_fields(sourced_id="SIS:4711"))
    assert UUID(generated["sourced_id"]).version == 4
    assert given["sourced_id"] == "SIS:4711"
    before = await everything(connection)

    for sourced_id in ("SIS:4711", generated["sourced_id"]):
        answer = await call(client, "POST", "/students", student_fields(sourced_id=sourced_id))
        [error] = problem(answer, 409, "sourced_id_taken")["errors"]
        assert error["pointer"] == "#/sourced_id"
        answer = await call(client, "PUT", "/students/by-external-id/S9", student_fields(sourced_id=sourced_id))
        problem(answer, 409, "sourced_id_taken")
    path = f"/students/{given['id']}"
    assert places(await call(client, "PATCH", path, {"sourced_id": "other"})) == [("read_only", "#/sourced_id")]
    assert (await call(client, "PATCH", path, {"sourced_id": "SIS:4711"})).body == given
    assert await everything(connection) == before


@pytest.mark.parametrize("sourced_id", ["", "a b", "é", ".a", "a/b", "a,b", "a\n", "x" * 256, 7])
async def test_an_invalid_sourced_id_is_refused(client: Client, sourced_id: object) -> None:
    answer = await call(client, "POST", "/students", student_fields(sourced_id=sourced_id))
    assert [place for _, place in places(answer)] == ["#/sourced_id"]


async def test_a_put_gives_the_sourced_id_once_and_keeps_it(client: Client) -> None:
    path, body = "/students/by-external-id/S1", student_fields()
    created = await call(client, "PUT", path, {**body, "sourced_id": "A-1"})
    assert (created.status, created.body["sourced_id"]) == (201, "A-1")

    for sent in ({}, {"sourced_id": None}, {"sourced_id": "A-1"}):
        answer = await call(client, "PUT", path, {**body, **sent})
        assert (answer.status, answer.body) == (200, created.body)
    answer = await call(client, "PUT", path, {**body, "sourced_id": "A-2"})
    assert places(answer) == [("read_only", "#/sourced_id")]
    other = await call(client, "PUT", "/students/by-external-id/S2", student_fields(sourced_id=None))
    assert UUID(other.body["sourced_id"]).version == 4


async def test_the_previous_version_of_the_service_still_adds_students(client: Client, connection: Connection) -> None:
    insert = "INSERT INTO students (given_name, family_name, email) VALUES ('A', 'B', 'a@b.example') RETURNING id"
    id = await connection.fetchval(insert)

    student = await read(client, f"/students/{id}")

    assert UUID(student["sourced_id"]).version == 4
    assert (student["groups"], student["preferred_name"]) == ([], None)


async def test_a_student_may_change_the_case_of_their_own_address(client: Client) -> None:
    id = await new_student(client, email="ada@campus.example")

    answer = await call(client, "PATCH", f"/students/{id}", {"email": "Ada@campus.example"})

    assert (answer.status, answer.body["email"], answer.body["version"]) == (200, "Ada@campus.example", 2)


async def test_addresses_are_compared_without_the_case_of_ascii_letters_only(client: Client) -> None:
    """The database compares addresses in this way: the registrar must find the same duplicates, alone or in a batch."""
    await new_student(client, email="Ä@campus.example")
    assert await new_student(client, email="ä@campus.example")
    # While the first one is written, the others gather in one batch.
    emails = ("first@b.example", "Ö@b.example", "ö@b.example")
    answers = [call(client, "POST", "/students", student_fields(email=email)) for email in emails]
    assert [answer.status for answer in await asyncio.gather(*answers)] == [201, 201, 201]

    for email in ("Ä@CAMPUS.example", "A\u0308@campus.example"):
        problem(await call(client, "POST", "/students", student_fields(email=email)), 409, "email_taken")
    problem(await call(client, "POST", "/students", student_fields(email="ö@B.EXAMPLE")), 409, "email_taken")


async def test_a_domain_in_its_own_script_equals_the_domain_in_punycode(client: Client) -> None:
    student = await create(client, "/students", student_fields(email="a@xn--bcher-kva.example"))
    assert student["email"] == "a@bücher.example"

    for email in ("a@BÜCHER.example", "A@xn--BCHER-kva.example"):
        problem(await call(client, "POST", "/students", student_fields(email=email)), 409, "email_taken")
    assert await read(client, "/students?email=a@b%C3%BCcher.example") == {"items": [student], "next": None}


async def test_equivalent_unicode_texts_are_the_same_external_id(client: Client) -> None:
    fields = student_fields()
    student = await create(client, "/students", {**fields, "external_id": "e\u0301-1"})

    assert student["external_id"] == "é-1"
    for spelling in ("%C3%A9-1", "e%CC%81-1"):
        assert await read(client, f"/students?external_id={spelling}") == {"items": [student], "next": None}
        answer = await call(client, "PUT", f"/students/by-external-id/{spelling}", fields)
        assert (answer.status, answer.body) == (200, student)


async def test_a_put_creates_then_changes_nothing_then_replaces(client: Client, connection: Connection) -> None:
    path = "/students/by-external-id/S1"
    body = student_fields()

    created = await call(client, "PUT", path, body)
    again = await call(client, "PUT", path, body)
    replaced = await call(client, "PUT", path, {**body, "given_name": "Grace"})

    assert created.status == 201
    assert created.body.items() >= {**body, "external_id": "S1", "version": 1}.items()
    assert created.headers["Location"] == f"/students/{created.body['id']}"
    assert (again.status, again.body, again.etag) == (200, created.body, created.etag)
    assert "Location" not in again.headers
    assert (replaced.status, replaced.etag) == (200, '"2"')
    assert replaced.body == {
        **created.body,
        "given_name": "Grace",
        "version": 2,
        "updated_at": replaced.body["updated_at"],
    }
    assert [event["type"] for event in await events(connection)] == ["student.created", "student.updated"]


async def test_a_put_accepts_any_external_id_percent_encoded_in_its_path(client: Client) -> None:
    for external_id in EXTERNAL_IDS:
        encoded = "".join(f"%{byte:02X}" for byte in external_id.encode())
        answer = await call(client, "PUT", f"/students/by-external-id/{encoded}", student_fields())
        assert (answer.status, answer.body["external_id"]) == (201, external_id)
        assert await read(client, f"/students?external_id={encoded}") == {"items": [answer.body], "next": None}


async def test_a_put_refuses_an_invalid_external_id(client: Client) -> None:
    for path in ("%20", "a%20b", "%00", "%E2%80%8B", "x" * 201, "%2E%2E%2E"):
        answer = await call(client, "PUT", f"/students/by-external-id/{path}", student_fields())
        assert [place for _, place in places(answer)] == ["external_id"], path


async def test_a_put_takes_the_external_id_from_its_path_and_refuses_another_in_the_body(client: Client) -> None:
    path = "/students/by-external-id/S1"
    for other in ("S2", None):
        answer = await call(client, "PUT", path, student_fields(external_id=other))
        assert places(answer) == [("read_only", "#/external_id")]

    assert (await call(client, "PUT", path, student_fields(external_id="S1"))).status == 201


async def test_a_put_that_creates_accepts_no_read_only_member_except_the_external_id(
    client: Client, connection: Connection
) -> None:
    for name, value in (("id", 1), ("version", 1), ("created_at", "2026-09-01T08:00:00Z"), ("id", None)):
        answer = await call(client, "PUT", "/students/by-external-id/S1", student_fields(**{name: value}))
        assert places(answer) == [("read_only", f"#/{name}")]
    assert await events(connection) == []


async def test_a_put_with_if_none_match_any_creates_once(client: Client, connection: Connection) -> None:
    path, headers = "/students/by-external-id/S1", {"If-None-Match": "*"}
    assert (await call(client, "PUT", path, student_fields(), headers=headers)).status == 201
    before = await everything(connection)

    problem(await call(client, "PUT", path, student_fields(), headers=headers), 412, "precondition_failed")

    assert await everything(connection) == before


async def test_a_put_with_if_match_does_not_create(client: Client, connection: Connection) -> None:
    for tag in ("*", '"1"'):
        answer = await call(client, "PUT", "/students/by-external-id/S1", student_fields(), headers={"If-Match": tag})
        problem(answer, 412, "precondition_failed")
    assert await events(connection) == []


async def test_a_change_with_the_current_version_is_made(client: Client) -> None:
    id = await new_student(client)

    version = 1
    for tags in ('"{}"', '"7000", "{}"', '"{}","7000"', 'W/"7000", "{}"', "*"):
        headers = {"If-Match": tags.format(version)}
        answer = await call(client, "PATCH", f"/students/{id}", {"given_name": f"N{version}"}, headers=headers)
        version += 1
        assert (answer.status, answer.etag) == (200, f'"{version}"'), tags
    assert (await call(client, "DELETE", f"/students/{id}", headers={"If-Match": f'"{version}"'})).status == 204


async def test_a_put_with_the_current_version_is_made(client: Client) -> None:
    await new_student(client, external_id="S1")

    for tag in ('"1"', "*"):
        answer = await call(client, "PUT", "/students/by-external-id/S1", student_fields(), headers={"If-Match": tag})
        assert answer.status == 200, tag


async def test_a_change_with_another_version_is_not_made(client: Client, connection: Connection) -> None:
    id = await new_student(client, external_id="S1")
    before = await everything(connection)

    for tag in ('"2"', '"0"', '"01"', '""', 'W/"1"', '"x"', '"2", "3"'):
        for method, path, body in (
            ("PATCH", f"/students/{id}", {"given_name": "X"}),
            ("PATCH", f"/students/{id}", {}),
            ("PUT", "/students/by-external-id/S1", student_fields()),
            ("DELETE", f"/students/{id}", None),
        ):
            answer = await call(client, method, path, body, headers={"If-Match": tag})
            problem(answer, 412, "precondition_failed")

    assert await everything(connection) == before


async def test_a_weak_tag_never_matches_and_the_error_names_the_strong_one(client: Client) -> None:
    """A proxy that compresses responses, such as nginx, makes our tags weak."""
    id = await new_student(client, external_id="S1")

    for method, path, body in (
        ("GET", f"/students/{id}", None),
        ("PATCH", f"/students/{id}", {"given_name": "X"}),
        ("PUT", "/students/by-external-id/S1", student_fields()),
        ("DELETE", f"/students/{id}", None),
    ):
        answer = await call(client, method, path, body, headers={"If-Match": 'W/"1"'})
        detail = problem(answer, 412, "precondition_failed")["detail"]
        assert 'The weak tag W/"1" never matches' in detail, method
        assert 'Send "1" instead' in detail


async def test_if_none_match_compares_weakly(client: Client, connection: Connection) -> None:
    id = await new_student(client, external_id="S1")
    before = await everything(connection)

    for tags in ('"1"', 'W/"1"', '"7", W/"1"', "*"):
        answer = await call(client, "GET", f"/students/{id}", headers={"If-None-Match": tags})
        assert (answer.status, answer.body, answer.etag) == (304, b"", '"1"'), tags
        assert "Content-Type" not in answer.headers
        assert (await call(client, "HEAD", f"/students/{id}", headers={"If-None-Match": tags})).status == 304
        answer = await call(
            client, "PUT", "/students/by-external-id/S1", student_fields(), headers={"If-None-Match": tags}
        )
        problem(answer, 412, "precondition_failed")
    assert await everything(connection) == before

    for tags in ('"2"', 'W/"2", ""'):
        answer = await call(client, "GET", f"/students/{id}", headers={"If-None-Match": tags})
        assert (answer.status, answer.etag) == (200, '"1"')
        answer = await call(
            client, "PUT", "/students/by-external-id/S1", student_fields(), headers={"If-None-Match": tags}
        )
        assert answer.status == 200, tags
        await call(client, "DELETE", f"/students/{id}")
        id = await new_student(client, external_id="S1")


async def test_a_read_honours_if_match(client: Client) -> None:
    id = await new_student(client)

    assert (await call(client, "GET", f"/students/{id}", headers={"If-Match": '"7", "1"'})).status == 200
    assert (await call(client, "GET", f"/students/{id}", headers={"If-Match": "*"})).status == 200
    problem(await call(client, "GET", f"/students/{id}", headers={"If-Match": '"2"'}), 412, "precondition_failed")
    malformed = await call(client, "GET", f"/students/{id}", headers={"If-Match": '"2"', "If-None-Match": "1"})
    assert places(malformed) == [("invalid_etag", "If-None-Match")]
    problem(await call(client, "GET", "/students/99", headers={"If-Match": '"2"'}), 404, "student_not_found")


async def test_a_malformed_entity_tag_is_invalid(client: Client) -> None:
    id = await new_student(client)

    for tag in ("1", "", '"1', '"1" "2"', "W/1", '"1", *', "*, *", '"a b"', 'w/"1"'):
        answer = await call(client, "PATCH", f"/students/{id}", {"given_name": "X"}, headers={"If-Match": tag})
        assert places(answer) == [("invalid_etag", "If-Match")], tag


async def test_a_put_with_if_none_match_replaces_every_other_version(client: Client) -> None:
    path = "/students/by-external-id/S1"
    assert (await call(client, "PUT", path, student_fields())).status == 201

    problem(
        await call(client, "PUT", path, student_fields(), headers={"If-None-Match": '"1"'}), 412, "precondition_failed"
    )
    assert (await call(client, "PUT", path, student_fields(), headers={"If-None-Match": '"7"'})).status == 200


async def test_a_deleted_student_is_not_found(client: Client) -> None:
    id = await new_student(client, email="ada@campus.example", external_id="S1")

    answer = await call(client, "DELETE", f"/students/{id}")

    assert (answer.status, answer.body) == (204, b"")
    for method in ("GET", "DELETE"):
        problem(await call(client, method, f"/students/{id}"), 404, "student_not_found")
    again = await new_student(client, email="ADA@campus.example", external_id="S1")
    assert again != id


async def test_a_student_with_enrollment_history_cannot_be_deleted(client: Client, connection: Connection) -> None:
    student, course = await new_student(client), await new_course(client)
    await enroll(client, student, course)
    before = await everything(connection)

    problem(await call(client, "DELETE", f"/students/{student}"), 409, "in_use")
    assert await everything(connection) == before
    assert (await call(client, "DELETE", f"/students/{student}/courses/{course}")).status == 200
    problem(await call(client, "DELETE", f"/students/{student}"), 409, "in_use")
    assert (await read(client, f"/students/{student}"))["id"] == student


@pytest.mark.parametrize(
    ("taken", "code", "pointer"),
    [
        ({"email": "ADA@campus.EXAMPLE"}, "email_taken", "#/email"),
        ({"external_id": "S1"}, "external_id_taken", "#/external_id"),
    ],
)
async def test_unique_fields_cannot_be_used_twice(
    client: Client, connection: Connection, taken: dict[str, str], code: str, pointer: str
) -> None:
    await new_student(client, email="ada@campus.example", external_id="S1")
    other = await new_student(client, external_id="S2")
    before = await everything(connection)

    answers = [
        await call(client, "POST", "/students", student_fields(**taken)),
        await call(client, "PATCH", f"/students/{other}", taken),
    ]
    if "email" in taken:
        answers += [
            await call(client, "PUT", "/students/by-external-id/S2", student_fields(**taken)),
            await call(client, "PUT", "/students/by-external-id/S3", student_fields(**taken)),
        ]

    for answer in answers:
        [error] = problem(answer, 409, code)["errors"]
        assert (error["code"], error["pointer"]) == (code, pointer)
    assert await everything(connection) == before


async def test_external_ids_are_case_sensitive(client: Client) -> None:
    assert await new_student(client, external_id="s1") != await new_student(client, external_id="S1")


async def test_of_50_creations_of_one_address_at_once_exactly_one_succeeds(
    client: Client, connection: Connection
) -> None:
    spellings = ["ada@campus.example", "Ada@Campus.Example", "ADA@CAMPUS.EXAMPLE"]

    answers = await asyncio.gather(
        *(call(client, "POST", "/students", student_fields(email=spellings[number % 3])) for number in range(50))
    )

    assert Counter(answer.status for answer in answers) == {201: 1, 409: 49}
    for answer in answers:
        if answer.status == 409:
            problem(answer, 409, "email_taken")
    assert await connection.fetchval("SELECT count(*) FROM students") == 1
    assert await connection.fetchval("SELECT count(*) FROM events") == 1


async def test_of_50_puts_of_one_external_id_at_once_exactly_one_creates(
    client: Client, connection: Connection
) -> None:
    body = student_fields()

    answers = await asyncio.gather(*(call(client, "PUT", "/students/by-external-id/S1", body) for _ in range(50)))

    assert Counter(answer.status for answer in answers) == {201: 1, 200: 49}
    assert len({answer.body["id"] for answer in answers}) == 1
    assert await connection.fetchval("SELECT count(*) FROM events") == 1


async def test_of_many_changes_of_one_version_at_once_exactly_one_is_made(client: Client) -> None:
    id = await new_student(client)

    answers = await asyncio.gather(
        *(
            call(client, "PATCH", f"/students/{id}", {"given_name": f"N{number}"}, headers={"If-Match": '"1"'})
            for number in range(20)
        )
    )

    assert Counter(answer.status for answer in answers) == {200: 1, 412: 19}
    assert (await read(client, f"/students/{id}"))["version"] == 2


async def test_every_change_has_an_event_with_the_names_of_the_fields_and_no_personal_data(
    client: Client, connection: Connection
) -> None:
    headers = {"X-Actor": "registrar's office", "X-Request-Id": "r-1"}
    body = {
        "given_name": "Secret",
        "family_name": "Person",
        "email": "secret@campus.example",
        "external_id": "Secret-1",
    }
    created = await call(client, "POST", "/students", body, headers=headers)
    path = f"/students/{created.body['id']}"
    await call(client, "PATCH", path, {"email": "secret2@campus.example", "given_name": "Secret"})
    [first, second] = await events(connection)
    assert (first["on_behalf_of"], first["request_id"]) == ("registrar's office", "r-1")
    assert second["on_behalf_of"] is None
    await call(client, "DELETE", path)

    recorded = await events(connection)

    assert [event["position"] for event in recorded] == [1, 2, 3]
    assert [event["type"] for event in recorded] == ["student.created", "student.updated", "student.deleted"]
    fields = [
        "external_id",
        "sourced_id",
        "given_name",
        "family_name",
        "preferred_name",
        "email",
        "max_credits",
        "groups",
    ]
    assert [event["before"] for event in recorded] == [
        None,
        {"fields": ["email"], "version": 1},
        {"fields": fields, "version": 2},
    ]
    assert [event["after"] for event in recorded] == [
        {"fields": fields, "version": 1},
        {"fields": ["email"], "version": 2},
        None,
    ]
    assert {(event["student_id"], event["course_id"]) for event in recorded} == {(created.body["id"], None)}
    # The deletion erases what a caller may have said about the student.
    assert (recorded[0]["on_behalf_of"], recorded[0]["request_id"]) == ("erased", "r-1")
    assert "secret" not in str(recorded).lower()
