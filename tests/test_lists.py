"""Lists with filters: each combination, the order, the pages, and what can't be combined."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.campus import call, course_fields, create, places, problem, read, student_fields, walk
from tests.conftest import Client

NAMES = [
    ("Zoë", "Müller"),
    ("Zoe", "Mueller"),
    ("José", "García Márquez"),
    ("Josefa", "Garcia"),
    ("Siobhán", "O\u2019Brien"),
    ("Ana", "Anaya"),
    ("Иван", "Йорданов"),
    ("Ada", "LOVELACE"),
]


def subsets(filters: Mapping[str, object]) -> Iterator[dict[str, object]]:
    for size in range(len(filters) + 1):
        for names in combinations(filters, size):
            yield {name: filters[name] for name in names}


async def listed(client: Client, path: str, query: Mapping[str, object], limit: int = 2) -> list[Any]:
    """Return the items of all pages; no item may be on two of them."""
    items = [item for page in await walk(client, f"{path}?{urlencode({**query, 'limit': limit})}") for item in page]
    assert len({item["id"] for item in items}) == len(items), query
    return items


async def students(client: Client) -> list[Any]:
    return [
        await create(
            client,
            "/students",
            student_fields(given_name=given, family_name=family, external_id=f"S{number}", email=f"s{number}@x"),
        )
        for number, (given, family) in enumerate(NAMES)
    ]


async def test_every_combination_of_the_filters_of_students_lists_those_that_match_all(client: Client) -> None:
    everyone = await students(client)
    first = everyone[0]
    conditions = {
        "email": lambda student: student["email"] == first["email"],
        "external_id": lambda student: student["external_id"] == first["external_id"],
        "id": lambda student: student["id"] in {first["id"], everyone[1]["id"], everyone[2]["id"]},
        "q": lambda student: student["given_name"] in {"Zoë", "Zoe"},
    }
    filters = {
        "email": first["email"].upper(),
        "external_id": first["external_id"],
        "id": ",".join(str(each["id"]) for each in everyone[2::-1]),
        "q": "ZOE",
    }

    for query in subsets(filters):
        expected = [each for each in everyone if all(conditions[name](each) for name in query)]
        found = await listed(client, "/students", query)
        assert sorted(found, key=lambda student: student["id"]) == expected, query
        assert "q" in query or found == expected, query
    assert await listed(client, "/students", {**filters, "external_id": "S1"}) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("mull", ["Zoë Müller"]),
        ("MÜLL", ["Zoë Müller"]),
        ("zoë m", ["Zoe Mueller", "Zoë Müller"]),
        ("müller  zoe", ["Zoë Müller"]),
        ("garcia", ["Josefa Garcia", "José García Márquez"]),
        ("marquez", []),
        ("o'brien", ["Siobhán O\u2019Brien"]),
        ("obr", ["Siobhán O\u2019Brien"]),
        ("siobhan o\u2019b", ["Siobhán O\u2019Brien"]),
        ("ana", ["Ana Anaya"]),
        ("an", ["Ana Anaya"]),
        ("a", ["Ada LOVELACE", "Ana Anaya"]),
        ("иван й", ["Иван Йорданов"]),
        ("lovelace ada", ["Ada LOVELACE"]),
        ("%", []),
        ("_", []),
        ("x" * 200, []),
    ],
)
async def test_students_are_found_by_the_beginning_of_a_name_in_any_spelling(
    client: Client, text: str, found: list[str]
) -> None:
    await students(client)

    names = [
        f"{each['given_name']} {each['family_name']}" for each in await listed(client, "/students", {"q": text}, 1)
    ]

    assert names == found


async def test_students_are_listed_by_family_name_and_then_by_given_name(client: Client) -> None:
    everyone = await students(client)
    twins = [
        await create(client, "/students", student_fields(given_name="Ada", family_name="Lovelace")) for _ in range(3)
    ]

    found = await listed(client, "/students", {"sort": "name"})

    names = [f"{each['family_name']} {each['given_name']}" for each in found]
    assert names == [
        *("Anaya Ana", "Garcia Josefa", "García Márquez José", "LOVELACE Ada", "Lovelace Ada", "Lovelace Ada"),
        *("Lovelace Ada", "Mueller Zoe", "Müller Zoë", "O\u2019Brien Siobhán", "Йорданов Иван"),
    ]
    assert [each["id"] for each in found[4:7]] == [each["id"] for each in twins]
    assert await listed(client, "/students", {"sort": "id"}) == [*everyone, *twins]


async def test_the_longest_names_are_sorted_and_paged(client: Client) -> None:
    longest = [
        await create(client, "/students", student_fields(given_name="힣" * 200, family_name="𐀀" * 199 + end))
        for end in "cab"
    ]

    assert await listed(client, "/students", {"sort": "name"}, 1) == longest, "names that differ later are sorted by id"
    assert await listed(client, "/students", {"q": "힣" * 200}, 1) == longest


async def courses(client: Client) -> list[Any]:
    made = []
    for term in ("2026F", "2027S"):
        body = {"code": term, "name": term, "starts_on": "2030-09-01", "ends_on": "2031-01-01"}
        term_id = (await create(client, "/terms", body))["id"]
        for code, title, capacity in [
            ("MATH1", "Élements", 0),
            ("Math2", "Algebra", 5),
            ("ART1", "Mathématiques", None),
        ]:
            fields = course_fields(
                code=code, title=title, capacity=capacity, term_id=term_id, external_id=f"{term}{code}"
            )
            made.append(await create(client, "/courses", fields))
    cancelled = await create(client, "/courses", course_fields(code="ART1", title="Math", term_id=None))
    made.append((await call(client, "POST", f"/courses/{cancelled['id']}/cancel")).body)
    return made


async def test_every_combination_of_the_filters_of_courses_lists_those_that_match_all(client: Client) -> None:
    everything = await courses(client)
    for chosen, free in ((everything[1], "true"), (everything[0], "false"), (everything[-1], "false")):
        await check_courses(client, everything, chosen, free)


async def check_courses(client: Client, everything: list[Any], chosen: Any, free: str) -> None:
    """Compare every combination of the filters with the values of one course."""
    ids = [each["id"] for each in everything if each["id"] % 2 == chosen["id"] % 2]
    conditions = {
        "term_id": lambda course: course["term_id"] == chosen["term_id"],
        "code": lambda course: course["code"].lower() == chosen["code"].lower(),
        "external_id": lambda course: course["external_id"] == chosen["external_id"],
        "id": lambda course: course["id"] in ids,
        "status": lambda course: course["status"] == chosen["status"],
        "has_free_seats": lambda course: (course["seats_free"] != 0) == (free == "true"),
        "q": lambda course: course["code"].lower().startswith("math") or course["title"].startswith("Math"),
    }
    filters = {
        **{name: chosen[name] for name in ("term_id", "external_id", "status") if chosen[name] is not None},
        "code": chosen["code"].lower(),
        "id": ",".join(map(str, ids)),
        "has_free_seats": free,
        "q": "MÁTH",
    }
    for query in subsets(filters):
        expected = [each for each in everything if all(conditions[name](each) for name in query)]
        found = await listed(client, "/courses", query)
        assert sorted(found, key=lambda course: course["id"]) == expected, query
        assert "q" in query or found == expected, query


async def test_courses_are_listed_by_code_with_the_filters_that_have_an_index(client: Client) -> None:
    everything = await courses(client)

    for query in subsets({"term_id": everything[0]["term_id"], "status": "open", "has_free_seats": "true"}):
        unsorted = await listed(client, "/courses", query)
        expected = sorted(unsorted, key=lambda course: (course["code"].lower(), course["id"]))
        assert await listed(client, "/courses", {**query, "sort": "code"}) == expected, query
        assert await listed(client, "/courses", {**query, "sort": "id"}) == unsorted, query
    found = await listed(client, "/courses", {"q": "math"})
    assert [each["title"] for each in found] == ["Math", *["Élements"] * 2, *["Algebra"] * 2, *["Mathématiques"] * 2]


async def test_a_page_that_examines_many_courses_ends_early_and_the_next_page_continues(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = await courses(client)
    monkeypatch.setattr("service.api.courses.SCANNED_ROWS", 2)

    for query, expected in (
        ("status=cancelled", everything[-1:]),
        ("q=math&status=cancelled", everything[-1:]),
        (f"term_id={everything[3]['term_id']}&sort=code&has_free_seats=false", everything[3:4]),
        (f"term_id={everything[3]['term_id']}&has_free_seats=false", everything[3:4]),
    ):
        pages = await walk(client, f"/courses?{query}")
        assert [course for page in pages for course in page] == expected, query
        assert len(pages) > 1
        assert len(pages[0]) < 2


async def test_a_term_is_found_by_its_code(client: Client) -> None:
    await courses(client)

    assert [term["code"] for term in await listed(client, "/terms", {"code": "2026f"})] == ["2026F"]
    assert await listed(client, "/terms", {"code": "2028S"}) == []


@pytest.mark.parametrize(
    "path, query, expected",
    [
        ("/students", "sort=name&q=a", [("not_combinable", "sort")]),
        ("/students", "sort=id&id=1", [("not_combinable", "sort")]),
        ("/students", "sort=name&email=a@b", [("not_combinable", "sort")]),
        ("/students", "sort=email", [("not_an_option", "sort")]),
        ("/students", "group=x&name=y", [("unknown_parameter", "group"), ("unknown_parameter", "name")]),
        ("/students", "id=", [("not_ids", "id")]),
        ("/students", "id=1,,2", [("not_ids", "id")]),
        ("/students", "id=0", [("not_ids", "id")]),
        ("/students", "id=1,x", [("not_ids", "id")]),
        ("/students", f"id={','.join('1' * 101)}", [("not_ids", "id")]),
        ("/students", "q=", [("too_short", "q")]),
        ("/students", "q=%00", [("forbidden_character", "q")]),
        ("/students", "q=%20", [("blank", "q")]),
        ("/courses", "sort=code&code=A", [("not_combinable", "sort")]),
        ("/courses", "sort=title", [("not_an_option", "sort")]),
        ("/courses", "status=closed", [("not_an_option", "status")]),
        ("/courses", "has_free_seats=1", [("wrong_type", "has_free_seats")]),
        ("/courses", "capacity=1", [("unknown_parameter", "capacity")]),
        ("/terms", "sort=code", [("unknown_parameter", "sort")]),
    ],
)
async def test_an_invalid_filter_is_named(
    client: Client, path: str, query: str, expected: list[tuple[str, str]]
) -> None:
    assert places(await call(client, "GET", f"{path}?{query}")) == expected


async def test_a_cursor_continues_only_the_list_with_the_same_filters_and_sort(client: Client) -> None:
    await students(client)
    queries = ("q=a", "q=b", "sort=name", "", "id=1,2,3", "email=a@b")
    for query in ("q=a", "sort=name", "", "id=1,2,3"):
        cursor = (await read(client, f"/students?{query}&limit=1"))["next"]
        for other in queries:
            answer = await call(client, "GET", f"/students?{other}&cursor={cursor}")
            if other == query:
                assert answer.status == 200
            else:
                assert places(answer) == [("invalid_cursor", "cursor")], (query, other)


async def test_students_and_courses_are_read_by_external_id(client: Client) -> None:
    for path, fields in (("/students", student_fields), ("/courses", course_fields)):
        created = await create(client, path, fields(external_id="courses/é"))
        name = path[1:-1]

        answer = await call(client, "GET", f"{path}/by-external-id/courses%2F%C3%A9")
        assert answer.body == created
        assert answer.etag == '"1"'
        problem(await call(client, "GET", f"{path}/by-external-id/students"), 404, f"{name}_not_found")
        assert places(await call(client, "GET", f"{path}/by-external-id/a%20b"))[0][1] == "external_id"
