"""Lists with filters: each combination, the order, the pages, and what can't be combined."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import combinations
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from sql import Connection
from tests import shared
from tests.campus import call, course_fields, create, new_student, places, problem, read, student_fields, walk
from tests.conftest import Client

pytestmark, service, client, connection, settings = shared.SERVICE

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
            student_fields(
                given_name=given,
                family_name=family,
                external_id=f"S{number}",
                email=f"s{number}@x",
                groups=[["year:1", "major:é"], ["year:1"], []][number % 3],
            ),
        )
        for number, (given, family) in enumerate(NAMES)
    ]


async def test_every_combination_of_the_filters_of_students_lists_those_that_match_all(client: Client) -> None:
    everyone = await students(client)
    first = everyone[0]
    conditions: dict[str, Callable[[Any], bool]] = {
        "email": lambda student: student["email"] == first["email"],
        "external_id": lambda student: student["external_id"] == first["external_id"],
        "group": lambda student: "year:1" in student["groups"],
        "id": lambda student: student["id"] in {first["id"], everyone[1]["id"], everyone[2]["id"]},
        "q": lambda student: student["given_name"] in {"Zoë", "Zoe"},
    }
    filters = {
        "email": first["email"].upper(),
        "external_id": first["external_id"],
        "group": "year:1",
        "id": ",".join(str(each["id"]) for each in everyone[2::-1]),
        "q": "ZOE",
    }

    for query in subsets(filters):
        expected = [each for each in everyone if all(conditions[name](each) for name in query)]
        found = await listed(client, "/students", query)
        assert sorted(found, key=lambda student: student["id"]) == expected, query
        assert "q" in query or found == expected, query
    assert await listed(client, "/students", {**filters, "external_id": "S1"}) == []
    assert await listed(client, "/students", {"group": "major:é"}) == everyone[::3]
    assert await listed(client, "/students", {"group": "major"}) == []


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


async def test_students_are_found_by_their_preferred_names_too(client: Client) -> None:
    for given, preferred, family in (("Robert", "Bob", "Smith"), ("Bobby", None, "Smythe"), ("Bob", "Bobo", "Bobson")):
        await new_student(client, given_name=given, preferred_name=preferred, family_name=family)
    await new_student(client, given_name=None, preferred_name="Bób", family_name="Żak")
    await new_student(client, given_name="Élodie", preferred_name="Bo\u2019b", family_name=None)

    for text, found in (
        ("bob", ["Élodie None", "Robert Smith", "None Żak", "Bobby Smythe", "Bob Bobson"]),
        ("bob s", ["Robert Smith"]),
        ("BOB ŻA", ["None Żak"]),
        ("bobo", ["Bob Bobson"]),
        ("smith bob", []),
    ):
        items = await listed(client, "/students", {"q": text}, 1)
        assert [f"{each['given_name']} {each['family_name']}" for each in items] == found, text
        ids = ",".join(str(each["id"]) for each in items)
        assert len(await listed(client, "/students", {"q": text, "id": ids or 1})) == len(found)


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
    instructors = [(await create(client, "/instructors", {"family_name": name}))["id"] for name in ("Noether", "Abel")]
    taught = [everything[number]["id"] for number in (1, 2, 4, 6)]
    for course in (*taught, everything[0]["id"]):
        body = {"instructors": [{"instructor_id": id, "primary": id == instructors[0]} for id in instructors]}
        await call(client, "PUT", f"/courses/{course}/instructors", body)
    body = {"instructors": [{"instructor_id": instructors[1], "primary": True}]}
    await call(client, "PUT", f"/courses/{everything[0]['id']}/instructors", body)
    for chosen, free in ((everything[1], "true"), (everything[0], "false"), (everything[-1], "false")):
        await check_courses(client, everything, chosen, free, instructors[0], taught)


async def check_courses(
    client: Client, everything: list[Any], chosen: Any, free: str, instructor_id: int, taught: list[int]
) -> None:
    """Compare every combination of the filters with the values of one course."""
    ids = [each["id"] for each in everything if each["id"] % 2 == chosen["id"] % 2]
    conditions: dict[str, Callable[[Any], bool]] = {
        "term_id": lambda course: course["term_id"] == chosen["term_id"],
        "code": lambda course: course["code"].lower() == chosen["code"].lower(),
        "external_id": lambda course: course["external_id"] == chosen["external_id"],
        "id": lambda course: course["id"] in ids,
        "instructor_id": lambda course: course["id"] in taught,
        "status": lambda course: course["status"] == chosen["status"],
        "has_free_seats": lambda course: (course["seats_free"] != 0) == (free == "true"),
        "q": lambda course: course["code"].lower().startswith("math") or course["title"].startswith("Math"),
    }
    filters = {
        **{name: chosen[name] for name in ("term_id", "external_id", "status") if chosen[name] is not None},
        "code": chosen["code"].lower(),
        "id": ",".join(map(str, ids)),
        "instructor_id": instructor_id,
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
        ("/students", "groups=x&name=y", [("unknown_parameter", "groups"), ("unknown_parameter", "name")]),
        ("/students", "sort=name&group=a", [("not_combinable", "sort")]),
        ("/students", "group=a,b", [("forbidden_character", "group")]),
        ("/students", "id=", [("not_ids", "id")]),
        ("/students", "id=1,,2", [("not_ids", "id")]),
        ("/students", "id=0", [("not_ids", "id")]),
        ("/students", "id=1,x", [("not_ids", "id")]),
        ("/students", f"id={','.join('1' * 101)}", [("not_ids", "id")]),
        ("/students", "q=", [("too_short", "q")]),
        ("/students", "q=%00", [("forbidden_character", "q")]),
        ("/students", "q=%20", [("blank", "q")]),
        ("/courses", "sort=code&code=A", [("not_combinable", "sort")]),
        ("/courses", "sort=code&instructor_id=1", [("not_combinable", "sort")]),
        ("/courses", "instructor_id=0", [("too_small", "instructor_id")]),
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


async def test_students_courses_and_instructors_are_read_by_external_id(client: Client) -> None:
    for path, fields in (("/students", student_fields), ("/courses", course_fields), ("/instructors", student_fields)):
        created = await create(client, path, fields(external_id="courses/é"))
        name = path[1:-1]

        answer = await call(client, "GET", f"{path}/by-external-id/courses%2F%C3%A9")
        assert answer.body == created
        assert answer.etag == ('W/"1-0-0"' if path == "/courses" else '"1"')
        problem(await call(client, "GET", f"{path}/by-external-id/students"), 404, f"{name}_not_found")
        assert places(await call(client, "GET", f"{path}/by-external-id/a%20b"))[0][1] == "external_id"


async def enrollments(client: Client) -> list[Any]:
    """Make enrollments of every status; return them as their list should show them, by student and course."""
    terms = []
    for code in ("2026F", "2027S"):
        body = {"code": code, "name": code, "starts_on": "2030-09-01", "ends_on": "2031-01-01"}
        terms.append((await create(client, "/terms", body))["id"])
    made = [
        await create(client, "/courses", course_fields(external_id=f"C{number}", term_id=term, capacity=2))
        for number, term in enumerate([terms[0], terms[0], terms[1], None])
    ]
    people = [await create(client, "/students", student_fields(external_id=f"S{number}")) for number in range(3)]
    for student in people:
        request = {"course_ids": [course["id"] for course in made], "on_full": "waitlist"}
        assert (await call(client, "POST", f"/students/{student['id']}/enroll", request)).status == 201
    first, second = (f"/students/{people[0]['id']}/courses/{course['id']}" for course in made[:2])
    assert (await call(client, "POST", f"{first}/complete", {"passed": True, "grade": "A"})).status == 200
    assert (await call(client, "DELETE", second)).status == 200
    return [
        {
            "student_id": student["id"],
            "student_external_id": student["external_id"],
            "course_id": course["id"],
            "course_external_id": course["external_id"],
            "term_id": course["term_id"],
            **{name: shown[name] for name in ("status", "joined_at", "passed", "grade")},
        }
        for student in people
        for course in made
        for shown in [await read(client, f"/students/{student['id']}/courses/{course['id']}")]
    ]


async def test_every_combination_of_the_filters_of_enrollments_lists_those_that_match_all(client: Client) -> None:
    everything = await enrollments(client)
    assert {each["status"] for each in everything} == {"enrolled", "waitlisted", "completed", "dropped"}
    updated = {
        (each["student_id"], each["course_id"]): each["updated_at"]
        for each in (await read(client, "/enrollments?limit=1000"))["items"]
    }
    everything = [{**each, "updated_at": updated[each["student_id"], each["course_id"]]} for each in everything]
    for chosen in (everything[0], everything[1], everything[-1]):
        filters = {name: chosen[name] for name in ("student_id", "course_id", "term_id") if chosen[name] is not None}
        filters |= {"status": f"waitlisted,{chosen['status']}", "updated_since": chosen["updated_at"]}
        for query in subsets(filters):
            expected = [
                each
                for each in everything
                if all(each[name] == chosen[name] for name in query if name.endswith("_id"))
                and ("status" not in query or each["status"] in {"waitlisted", chosen["status"]})
                and ("updated_since" not in query or each["updated_at"] >= chosen["updated_at"])
            ]
            if "student_id" not in query and query.keys() & {"course_id", "term_id"}:
                expected.sort(key=lambda each: (each["course_id"], each["student_id"]))
            pages = await walk(client, f"/enrollments?{urlencode({**query, 'limit': 2})}")
            assert [each for page in pages for each in page] == expected, query


async def test_a_snapshot_of_a_term_takes_one_call_for_each_full_page(client: Client, connection: Connection) -> None:
    term_id = await connection.fetchval(
        "INSERT INTO terms (code, name, starts_on, ends_on) VALUES ('T', 'T', now(), now()) RETURNING id"
    )
    await connection.execute(
        """
        INSERT INTO students (given_name, family_name, email)
        SELECT 'A', 'B', number || '@x' FROM generate_series(1, 30) AS number
        """
    )
    await connection.execute(
        "INSERT INTO courses (code, title, term_id) SELECT 'C' || number, 'C', $1 FROM generate_series(1, 100) AS number",
        term_id,
    )
    await connection.execute(
        """
        INSERT INTO student_courses (student_id, course_id, status, joined_position, joined_at, updated_at)
        SELECT students.id, courses.id, 'enrolled', row_number() OVER (), $1::timestamptz, $1 FROM students CROSS JOIN courses
        """,
        datetime.now(UTC),
    )

    for query in (f"term_id={term_id}", f"term_id={term_id}&status=enrolled", ""):
        pages = await walk(client, f"/enrollments?limit=500&{query}")
        assert [len(page) for page in pages] == [500] * 6
        assert len({(each["student_id"], each["course_id"]) for page in pages for each in page}) == 3000
    assert [len(page) for page in await walk(client, f"/enrollments?limit=1000&term_id={term_id}")] == [1000] * 3
    assert places(await call(client, "GET", "/enrollments?limit=1001")) == [("too_large", "limit")]


async def test_pages_of_enrollments_miss_none_whose_status_changes_between_them(client: Client) -> None:
    everything = await enrollments(client)
    course_id = everything[2]["course_id"]
    listed_ids = []
    path: str = f"/enrollments?course_id={course_id}&limit=1"
    page = await read(client, path)
    while True:
        listed_ids += [each["student_id"] for each in page["items"]]
        if page["next"] is None:
            break
        # The first enrolled student leaves; the waitlisted one gets the seat.
        await call(client, "DELETE", f"/students/{everything[0]['student_id']}/courses/{course_id}")
        page = await read(client, f"{path}&cursor={page['next']}")

    assert listed_ids == sorted({each["student_id"] for each in everything})


async def test_a_page_of_enrollments_that_examines_many_ends_early(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = await enrollments(client)
    monkeypatch.setattr("service.api.enrollments.SCANNED_ENROLLMENTS", 3)

    for query in ("", f"&term_id={everything[0]['term_id']}"):
        pages = await walk(client, f"/enrollments?status=completed{query}")
        assert [each["status"] for page in pages for each in page] == ["completed"]
        assert len(pages) > 1


async def test_the_courses_of_a_student_are_filtered_by_statuses_and_term(client: Client) -> None:
    everything = await enrollments(client)
    student_id, term_id = everything[0]["student_id"], everything[0]["term_id"]
    mine = [each for each in everything if each["student_id"] == student_id]

    for query in subsets({"status": "completed,dropped,enrolled", "term_id": term_id}):
        statuses = str(query.get("status", "enrolled,waitlisted")).split(",")
        expected = [
            each["course_id"]
            for each in mine
            if each["status"] in statuses and ("term_id" not in query or each["term_id"] == term_id)
        ]
        pages = await walk(client, f"/students/{student_id}/courses?{urlencode({**query, 'limit': 1})}")
        assert [each["course_id"] for page in pages for each in page] == expected, query
        assert all(len(page) == 1 for page in pages if expected)
    for status in ("", "held", "enrolled,", "enrolled enrolled"):
        answer = await call(client, "GET", f"/students/{student_id}/courses?status={quote(status)}")
        assert places(answer) == [("not_statuses", "status")]


async def test_one_enrollment_is_read_as_the_list_shows_it(client: Client) -> None:
    everything = await enrollments(client)
    for each in everything:
        path = f"/students/{each['student_id']}/courses"
        shown = [item for page in await walk(client, f"{path}?status={each['status']}") for item in page]
        answer = await call(client, "GET", f"{path}/{each['course_id']}")
        assert [answer.body] == [item for item in shown if item["course_id"] == each["course_id"]]
        assert answer.body["course"]["external_id"] == each["course_external_id"]
        roster = await read(client, f"/courses/{each['course_id']}/students?status={each['status']}")
        assert (each["student_id"], each["student_external_id"]) in [
            (item["student"]["id"], item["student"]["external_id"]) for item in roster["items"]
        ]
    other = await create(client, "/courses", course_fields())
    student = await create(client, "/students", student_fields())
    for student_id in (everything[0]["student_id"], student["id"]):
        for course_id in (other["id"], 2**63 - 1, other["id"] - 1 if student_id == student["id"] else other["id"]):
            answer = await call(client, "GET", f"/students/{student_id}/courses/{course_id}")
            problem(answer, 404, "enrollment_not_found")
    problem(await call(client, "GET", f"/students/{student['id'] + 1}/courses/1"), 404, "student_not_found")
