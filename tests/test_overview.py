"""The overview of a student: everything current in one call, of one instant, in a constant number of statements."""

from typing import Any

from pytest_aiohttp import AiohttpClient

from service.api.keys import DATABASE
from service.settings import Settings
from sql import Connection
from tests import shared
from tests.campus import (
    call,
    create,
    enroll,
    join_waitlist,
    let_holds_end,
    new_course,
    new_student,
    problem,
    read,
    served,
)
from tests.conftest import Client

pytestmark, service, client, connection, settings = shared.SERVICE
aiohttp_client = shared.AIOHTTP_CLIENT


async def new_term(client: Client, code: str, starts_on: str, **fields: object) -> int:
    body = {"code": code, "name": code, "starts_on": starts_on, "ends_on": "2031-01-01", **fields}
    id: int = (await create(client, "/terms", body))["id"]
    return id


async def grant(client: Client, student: int, course: int, **fields: object) -> dict[str, Any]:
    body = {"course_id": course, "rule": "course_full", "author": "dean", "reason": "so", **fields}
    return await create(client, f"/students/{student}/overrides", body)


async def test_an_overview_has_what_the_lists_have(client: Client, connection: Connection) -> None:
    spring, fall = await new_term(client, "S", "2030-09-01", max_credits=9), await new_term(client, "F", "2030-02-01")
    student = await new_student(client, external_id="S1")
    seats = [await new_course(client, term_id=spring, credits=2.5) for _ in range(2)]
    completed = await new_course(client, term_id=fall, credits=4)
    full = await new_course(client, term_id=spring, credits=3, capacity=0)
    without_term = await new_course(client, credits=8)
    dropped = await new_course(client, term_id=fall, credits=1)
    await enroll(client, student, *seats, completed, without_term, dropped)
    await call(client, "POST", f"/students/{student}/courses/{completed}/complete", {"passed": True})
    await call(client, "DELETE", f"/students/{student}/courses/{dropped}")
    await join_waitlist(client, student, full)
    await create(client, f"/students/{student}/holds", {"reason": "paid", "blocks": ["drop"]})
    await let_holds_end(connection)
    await create(client, f"/students/{student}/holds", {"reason": "fees", "blocks": ["enroll"]})
    ended = await grant(client, student, seats[0])
    await call(client, "DELETE", f"/students/{student}/overrides/{ended['id']}")
    usable = await grant(client, student, full, rule="credit_limit")
    await call(client, "PATCH", f"/courses/{full}", {"capacity": 1})
    assert (await enroll(client, student, await new_course(client))).status == 409

    overview = await read(client, f"/students/{student}/overview")

    path = f"/students/{student}"
    assert overview["student"] == await read(client, path)
    assert overview["courses"] == (await read(client, f"{path}/courses"))["items"]
    [waiting] = [course for course in overview["courses"] if course["status"] == "waitlisted"]
    assert (waiting["position"], [each["code"] for each in waiting["blocked_by"]]) == (1, ["hold"])
    assert overview["terms"] == [
        {
            "term_id": fall,
            "code": "F",
            "name": "F",
            "starts_on": "2030-02-01",
            "ends_on": "2031-01-01",
            "credits": 4,
            "waitlisted_credits": 0,
            "max_credits": None,
        },
        {
            "term_id": spring,
            "code": "S",
            "name": "S",
            "starts_on": "2030-09-01",
            "ends_on": "2031-01-01",
            "credits": 5,
            "waitlisted_credits": 3,
            "max_credits": 9,
        },
    ]
    holds = (await read(client, f"{path}/holds"))["items"]
    assert overview["holds"] == holds[1:]
    assert overview["overrides"] == [usable]
    await call(client, "PATCH", path, {"max_credits": 12})
    own = (await read(client, f"{path}/overview"))["terms"]
    assert [term["max_credits"] for term in own] == [12, 12]


async def test_an_overview_has_the_newest_refusals(client: Client) -> None:
    student = await new_student(client)
    for _ in range(22):
        assert (await enroll(client, student, await new_course(client, capacity=0))).status == 409
    # A batch that writes something else writes the refusals before it.
    await call(client, "PATCH", f"/students/{student}", {"given_name": "Grace"})
    await enroll(client, student, await new_course(client))

    overview = await read(client, f"/students/{student}/overview")

    assert overview["refusals"] == (await read(client, f"/students/{student}/refusals?limit=20"))["items"]
    assert len(overview["refusals"]) == 20


async def test_an_empty_overview_and_one_of_nobody(client: Client) -> None:
    student = await new_student(client)

    overview = await read(client, f"/students/{student}/overview")

    empty: dict[str, list[Any]] = {name: [] for name in ("courses", "terms", "holds", "overrides", "refusals")}
    assert overview == {"student": await read(client, f"/students/{student}"), **empty}
    problem(await call(client, "GET", f"/students/{student + 1}/overview"), 404, "student_not_found")


async def test_an_overview_takes_as_many_statements_for_a_student_with_more_of_everything(
    aiohttp_client: AiohttpClient, settings: Settings
) -> None:
    client = await served(aiohttp_client, settings.model_copy(update={"pool_size": 1}))
    few, many = await new_student(client), await new_student(client)
    for student, count in ((few, 1), (many, 8)):
        for number in range(count):
            term = await new_term(client, f"T{student}-{number}", "2030-09-01")
            full = await new_course(client, term_id=term, capacity=0)
            await enroll(client, student, await new_course(client, term_id=term))
            await join_waitlist(client, student, full)
            await create(client, f"/students/{student}/holds", {"reason": "fees", "blocks": ["drop"]})
            await grant(client, student, full, rule="hold")
    sent: list[str] = []
    async with client.app[DATABASE].reading() as lent:
        lent.add_query_logger(lambda query: sent.append(query.query))

    statements = []
    for student in (few, many):
        sent.clear()
        overview = await read(client, f"/students/{student}/overview")
        statements.append([*sent])
        assert len(overview["holds"]) == len(overview["terms"]) == len(overview["overrides"]) == (1, 8)[student == many]
    assert statements[0] == statements[1]
    assert len(statements[0]) == 9, statements[0]


async def test_the_credits_in_a_part_count_for_its_term_too(client: Client) -> None:
    whole = await new_term(client, "W", "2030-01-01", max_credits=9)
    part = await new_term(client, "P", "2030-02-01", parent_id=whole, max_credits=3)
    student = await new_student(client)
    await enroll(
        client,
        student,
        await new_course(client, term_id=whole, credits=2.1),
        await new_course(client, term_id=part, credits=0.1),
        await new_course(client, term_id=part, credits=0.2),
    )

    terms = (await read(client, f"/students/{student}/overview"))["terms"]

    assert [(each["term_id"], each["credits"], each["max_credits"]) for each in terms] == [
        (whole, 2.4, 9),
        (part, 0.3, 3),
    ]


async def test_the_overview_of_a_term_counts_its_courses_and_seats(client: Client) -> None:
    term = await new_term(client, "T", "2030-09-01")
    empty = await new_course(client, term_id=term, capacity=20)
    full = await new_course(client, term_id=term, capacity=1)
    half = await new_course(client, term_id=term, capacity=2)
    await new_course(client, term_id=term)
    await new_course(client, capacity=7)
    cancelled = await new_course(client, term_id=term, capacity=9)
    await call(client, "POST", f"/courses/{cancelled}/cancel")
    first, second, third = [await new_student(client) for _ in range(3)]
    await enroll(client, first, full, half, empty)
    for student in (second, third):
        await join_waitlist(client, student, full)
    await call(client, "PATCH", f"/courses/{half}", {"capacity": 1})
    await join_waitlist(client, second, half)
    await create(client, f"/students/{second}/holds", {"reason": "fees", "blocks": ["enroll"]})
    await call(client, "PATCH", f"/courses/{half}", {"capacity": 2})

    overview = await read(client, f"/terms/{term}/overview")

    assert overview.pop("term") == await read(client, f"/terms/{term}")
    assert [each["id"] for each in overview.pop("longest_waitlists")] == [full, half]
    assert overview.pop("blocked_waitlists") == [await read(client, f"/courses/{half}")]
    assert overview == {
        "courses": 4,
        "cancelled": 1,
        "unlimited": 1,
        "seats": 23,
        "seats_taken": 3,
        "seats_free": 20,
        "waitlisted": 3,
        "waitlisted_courses": 2,
        "fill": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1],
    }
    problem(await call(client, "GET", "/terms/999/overview"), 404, "term_not_found")
