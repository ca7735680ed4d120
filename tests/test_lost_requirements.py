"""Prerequisites in progress: who may lean on them, who has lost them, and when they are met again."""

import pytest

from service.check import check
from service.registrar.changes import Origin
from service.registrar.courses import Cancel
from service.registrar.enrollments import Complete, Drop, Enroll
from service.settings import Settings
from sql import Connection
from sql.lost_requirements import LOAD_LOST_REQUIREMENTS
from tests import shared
from tests.campus import Answer, call, drop, enroll, events, join_waitlist, new_course, new_student, places, read, walk
from tests.conftest import Client
from tests.test_grades import set_scale
from tests.test_optimistic import counted, statements_of_enroll
from tests.test_registrar import codes, grant, status_of
from tests.test_requirements import FALL, SPRING, complete, term_of
from tests.test_swaps import swap

pytestmark, service, client, connection, settings = shared.SERVICE

MARKS = ("enrollment.requirement_lost", "enrollment.requirement_met")


async def allow(client: Client, course: int, *any_of: str, **fields: object) -> Answer:
    body = {"groups": [{"kind": "pre", "any_of": any_of, "in_progress": True, **fields}]}
    return await call(client, "PUT", f"/courses/{course}/requirements", body)


async def two_terms(client: Client) -> tuple[int, int]:
    return await term_of(client, "SPRING", *SPRING), await term_of(client, "FALL", *FALL)


async def sequence(client: Client, **required: object) -> tuple[int, int, int]:
    """Enroll a student in a course of the spring and in one of the fall that needs it; return the student and both."""
    spring, fall = await two_terms(client)
    first, second = [
        await new_course(client, code=code, term_id=term) for code, term in (("ONE", spring), ("TWO", fall))
    ]
    assert (await allow(client, second, "one", "ALT", **required)).status == 200
    student = await new_student(client)
    assert (await enroll(client, student, first)).status == 201
    assert (await enroll(client, student, second)).status == 201
    return student, first, second


async def lost(client: Client, course: int) -> list[int]:
    return [
        item["student_id"]
        for page in await walk(client, f"/courses/{course}/students?requirement=lost&limit=1")
        for item in page
    ]


async def marks(connection: Connection) -> list[str]:
    return [each["type"] for each in await events(connection) if each["type"] in MARKS]


@pytest.mark.parametrize("first", [None, SPRING, FALL])
@pytest.mark.parametrize("second", [None, SPRING, FALL])
async def test_a_course_in_progress_counts_if_its_term_ends_before_the_other_begins(
    client: Client, first: tuple[str, str] | None, second: tuple[str, str] | None
) -> None:
    terms = {None: None, SPRING: await term_of(client, "S", *SPRING), FALL: await term_of(client, "F", *FALL)}
    one = await new_course(client, code="ONE", term_id=terms[first])
    two = await new_course(client, code="TWO", term_id=terms[second])
    assert (await allow(client, two, "ONE")).body["groups"] == [{"kind": "pre", "any_of": ["ONE"], "in_progress": True}]
    student = await new_student(client)
    await enroll(client, student, one)
    answer = await enroll(client, student, two)
    if (first, second) == (SPRING, FALL):
        assert answer.status == 201
    else:
        [error] = answer.body["errors"]
        assert (error["code"], error["any_of"], error["in_progress"]) == ("prerequisite_missing", ["ONE"], True)


async def test_only_a_seat_counts_and_only_where_the_group_allows_it(client: Client) -> None:
    spring, fall = await two_terms(client)
    one = await new_course(client, code="ONE", term_id=spring, capacity=1)
    two = await new_course(client, code="TWO", term_id=fall)
    student, other = await new_student(client), await new_student(client)
    await enroll(client, other, one)
    await join_waitlist(client, student, one)
    await allow(client, two, "ONE")
    assert codes(await enroll(client, student, two)) == ["prerequisite_missing"]
    body = {"groups": [{"kind": "pre", "any_of": ["ONE"]}]}
    await call(client, "PUT", f"/courses/{two}/requirements", body)
    assert codes(await enroll(client, other, two)) == ["prerequisite_missing"]
    refused = await call(client, "POST", f"/students/{other}/enroll", {"course_ids": [one, two]})
    assert codes(refused) == ["prerequisite_missing"]


@pytest.mark.parametrize("how", ["fail", "drop", "annul", "withdraw", "cancel", "take back", "grade", "correct"])
async def test_a_seat_that_leaned_on_a_course_is_marked_when_it_is_lost(
    client: Client, settings: Settings, connection: Connection, how: str
) -> None:
    if how == "grade":
        await set_scale(client)
    student, first, second = await sequence(client, **({"min_grade": "B"} if how == "grade" else {}))
    bystander = await new_student(client)
    await enroll(client, bystander, first)
    await enroll(client, bystander, second)
    path = f"/students/{student}/courses/{first}"
    match how:
        case "fail":
            await complete(client, student, first, passed=False)
        case "drop":
            await drop(client, student, first)
        case "annul":
            await call(client, "DELETE", f"{path}?as=dropped&reason=R")
        case "withdraw":
            terms = (await read(client, "/terms"))["items"]
            await call(client, "PATCH", f"/terms/{terms[0]['id']}", {"drop_until": "2001-01-01T00:00:00Z"})
            assert (await drop(client, student, first)).body["status"] == "withdrawn"
        case "cancel":
            await call(client, "POST", f"/courses/{first}/cancel")
        case "take back":
            await call(client, "PATCH", f"/courses/{first}", {"term_id": None})
            await complete(client, student, first)
            await call(client, "DELETE", f"{path}/completion")
        case "grade":
            assert (await call(client, "POST", f"{path}/complete", {"grade": "C"})).status == 200
        case "correct":
            await complete(client, student, first)
            assert await lost(client, second) == []
            await complete(client, student, first, passed=False)

    expected = [student, bystander] if how == "cancel" else [student]
    assert await lost(client, second) == expected
    assert await status_of(client, student, second) == "enrolled"
    recorded = [each for each in await events(connection) if each["type"] in MARKS]
    assert [(each["type"], each["student_id"], each["course_id"]) for each in recorded] == [
        (MARKS[0], each, second) for each in expected
    ]
    required = {"any_of": ["ALT", "one"], **({"min_grade": "B"} if how == "grade" else {}), "in_progress": True}
    reasons = [{"code": "prerequisite_missing", **required}]
    assert recorded[0]["after"] == {"status": "enrolled", "requirement_lost": True, "blocked_by": reasons}
    assert await check(settings) == 0


@pytest.mark.parametrize("how", ["again", "another", "equivalent", "pass", "override", "requirements"])
async def test_the_mark_ends_when_the_requirement_is_met_again(
    client: Client, settings: Settings, connection: Connection, how: str
) -> None:
    student, first, second = await sequence(client)
    await drop(client, student, first)
    assert await lost(client, second) == [student]
    spring = (await read(client, f"/courses/{first}"))["term_id"]
    code = {"another": "ALT", "equivalent": "EQU"}.get(how, "ONE")
    other = await new_course(client, code=code, section="2", term_id=spring)
    match how:
        case "again":
            await enroll(client, student, first)
        case "another":
            await enroll(client, student, other)
        case "equivalent":
            await call(client, "POST", "/equivalences", {"codes": ["one", "EQU"]})
            await enroll(client, student, other)
        case "pass":
            await call(client, "PATCH", f"/courses/{other}", {"term_id": None})
            await enroll(client, student, other)
            assert await lost(client, second) == [student]
            await complete(client, student, other)
        case "override":
            override = await grant(client, student, second, "prerequisite_missing")
            assert override["used_at"] is not None
        case "requirements":
            await call(client, "PUT", f"/courses/{second}/requirements", {"groups": []})

    assert await lost(client, second) == []
    assert await marks(connection) == [*MARKS]
    assert await check(settings) == 0


async def test_a_swap_of_the_course_for_another_one_that_serves_loses_nothing(
    client: Client, connection: Connection
) -> None:
    student, first, second = await sequence(client)
    spring = (await read(client, f"/courses/{first}"))["term_id"]
    other = await new_course(client, code="ALT", term_id=spring)
    assert (await swap(client, student, [first], [other])).status == 201
    assert (await lost(client, second), await marks(connection)) == ([], [])
    assert (await swap(client, student, [other, second], [])).status == 200
    assert (await lost(client, second), await marks(connection)) == ([], [])


async def test_a_seat_that_never_leaned_on_a_course_is_not_marked(client: Client, settings: Settings) -> None:
    """By an override, or because the requirement is newer than the seat."""
    student, first, second = await sequence(client)
    waived = await new_student(client)
    await grant(client, waived, second, "prerequisite_missing")
    assert (await enroll(client, waived, second)).status == 201
    assert (await enroll(client, waived, first)).status == 201
    fall = (await read(client, f"/courses/{second}"))["term_id"]
    third = await new_course(client, code="THREE", term_id=fall)
    await enroll(client, student, third)
    await allow(client, third, "NONE")
    await drop(client, student, first)
    assert await lost(client, third) == []
    await drop(client, waived, first)
    assert await lost(client, second) == [student, waived], "the student met the requirement for a time"
    assert await check(settings) == 0


async def test_an_unused_override_is_used_when_the_requirement_is_lost(client: Client, settings: Settings) -> None:
    student, first, second = await sequence(client)
    override = await grant(client, student, second, "prerequisite_missing")
    assert override["used_at"] is None
    await drop(client, student, first)
    [override] = (await read(client, f"/students/{student}/overrides"))["items"]
    assert override["used_at"] is not None
    assert await lost(client, second) == []
    assert await check(settings) == 0


@pytest.mark.parametrize("how", ["drop", "complete"])
async def test_the_mark_ends_with_the_seat(
    client: Client, settings: Settings, connection: Connection, how: str
) -> None:
    student, first, second = await sequence(client)
    await drop(client, student, first)
    await (drop if how == "drop" else complete)(client, student, second)
    assert await lost(client, second) == []
    assert await marks(connection) == [MARKS[0]]
    if how == "complete":
        await call(client, "DELETE", f"/students/{student}/courses/{second}/completion")
    assert await check(settings) == 0


async def test_a_merge_brings_and_takes_what_a_seat_leans_on(
    client: Client, settings: Settings, connection: Connection
) -> None:
    student, first, second = await sequence(client)
    await drop(client, student, first)
    duplicate = await new_student(client)
    await enroll(client, duplicate, first)
    merged = await call(client, "POST", f"/students/{student}/merge", {"student_id": duplicate, "reason": "R"})
    assert merged.status == 200
    assert await lost(client, second) == []

    # The student's failure is stronger than the duplicate's seat.
    other, twin = await new_student(client), await new_student(client)
    await enroll(client, twin, first)
    await enroll(client, twin, second)
    await enroll(client, other, first)
    await complete(client, other, first, passed=False)
    await call(client, "POST", f"/students/{other}/merge", {"student_id": twin, "reason": "R"})
    assert await lost(client, second) == [other]
    assert await marks(connection) == [*MARKS, MARKS[0]]
    assert await check(settings) == 0


async def test_a_pass_under_a_former_code_can_be_lost(client: Client, settings: Settings) -> None:
    student, first, second = await sequence(client)
    await complete(client, student, first)
    await call(client, "PATCH", f"/courses/{first}", {"code": "NEW"})
    await call(client, "DELETE", f"/students/{student}/courses/{first}/completion")
    assert await lost(client, second) == [student]
    assert await check(settings) == 0


async def test_the_list_and_the_requirements_refuse_what_does_not_fit(client: Client) -> None:
    course = await new_course(client)
    refused = await call(client, "GET", f"/courses/{course}/students?requirement=lost&status=waitlisted")
    assert places(refused) == [("not_combinable", "requirement")]
    body = {"groups": [{"kind": "co", "any_of": ["ONE"], "in_progress": True}]}
    assert places(await call(client, "PUT", f"/courses/{course}/requirements", body)) == [
        ("in_progress_of_pre", "#/groups/0")
    ]
    assert (await call(client, "GET", "/courses/9999/students?requirement=lost")).status == 404


async def test_enrollments_that_need_no_course_in_progress_send_no_further_statement(
    client: Client, settings: Settings
) -> None:
    plain, other = await new_course(client), await new_course(client)
    students = [await new_student(client) for _ in range(4)]
    await enroll(client, students[0], plain)
    async with counted(settings) as (office, sent):
        for student in students[1:]:
            sent.clear()
            [outcome] = await office.submit_all(
                [Enroll(origin=Origin("r"), student_id=student, course_ids=(plain, other))]
            )
            assert not isinstance(outcome, Exception)
        assert sent == statements_of_enroll(office)
        for change in (
            Drop(origin=Origin("r"), student_id=students[1], course_id=plain),
            Complete(origin=Origin("r"), student_id=students[2], course_id=plain, passed=False),
        ):
            await office.submit_all([change])
        assert LOAD_LOST_REQUIREMENTS not in sent


async def test_a_cancellation_marks_many_students_with_few_statements(client: Client, settings: Settings) -> None:
    _, first, second = await sequence(client)
    students = [await new_student(client) for _ in range(12)]
    counts = []
    for crowd in (students[:2], students[2:]):
        async with counted(settings) as (office, sent):
            for student in crowd:
                for course in (first, second):
                    await office.submit_all([Enroll(origin=Origin("r"), student_id=student, course_ids=(course,))])
            sent.clear()
            await office.submit_all([Cancel(origin=Origin("r"), course_id=first)])
            counts.append(len(sent))
        await call(client, "POST", f"/courses/{first}/reopen")
    assert counts[0] == counts[1]
    assert len(await lost(client, second)) == 13
