"""The grade scale: the results that agree with it, and the grades that requirements need."""

from typing import Any

import pytest

from service.check import check
from service.registrar.changes import Origin
from service.registrar.enrollments import Complete, Enroll
from service.settings import Settings
from sql import Connection
from tests import shared
from tests.campus import (
    Answer,
    bare,
    call,
    enroll,
    events,
    everything,
    join_waitlist,
    new_course,
    new_student,
    places,
    problem,
    read,
)
from tests.conftest import Client
from tests.test_optimistic import counted, statements_of_enroll
from tests.test_registrar import codes, status_of

pytestmark, service, client, connection, settings = shared.SERVICE

SCALE = [
    {"grade": "A", "passes": True},
    {"grade": "B", "passes": True},
    {"grade": "C", "passes": True},
    {"grade": "F", "passes": False},
]


async def set_scale(client: Client, grades: list[dict[str, object]] = SCALE) -> Answer:
    return await call(client, "PUT", "/grade-scale", {"grades": grades})


async def complete(client: Client, student: int, course: int, **result: object) -> Answer:
    return await call(client, "POST", f"/students/{student}/courses/{course}/complete", result)


async def require_grade(client: Client, course: int, grade: str | None, *any_of: str) -> Answer:
    body = {"groups": [{"kind": "pre", "any_of": any_of, "min_grade": grade}]}
    return await call(client, "PUT", f"/courses/{course}/requirements", body)


async def graduate(client: Client, course: int, grade: str | None, **result: object) -> int:
    """Let a new student complete a course, and return the student."""
    student = await new_student(client)
    assert (await enroll(client, student, course)).status == 201
    assert (await complete(client, student, course, grade=grade, **result)).status == 200
    return student


async def test_a_scale_is_set_read_and_removed_each_with_an_event(
    client: Client, settings: Settings, connection: Connection
) -> None:
    assert await read(client, "/grade-scale") == {"grades": []}
    assert (await set_scale(client)).body == {"grades": SCALE}
    assert await read(client, "/grade-scale") == {"grades": SCALE}
    assert (await set_scale(client)).status == 200
    assert (await set_scale(client, [])).body == {"grades": []}
    recorded = [(each["type"], each["before"], each["after"]) for each in await events(connection)]
    assert recorded == [
        ("grade_scale.set", {"grades": []}, {"grades": SCALE}),
        ("grade_scale.set", {"grades": SCALE}, {"grades": []}),
    ]
    assert await check(settings) == 0


@pytest.mark.parametrize(
    ("result", "passed"),
    [
        ({"grade": "B"}, True),
        ({"grade": "F"}, False),
        ({"grade": "F", "passed": False}, False),
        ({"passed": True}, True),
        ({"grade": "B+"}, "unknown_grade #/grade"),
        ({"grade": "b"}, "unknown_grade #/grade"),
        ({"grade": "F", "passed": True}, "invalid_result #/passed"),
        ({}, "invalid_result #/passed"),
    ],
)
async def test_a_result_agrees_with_the_scale(
    client: Client, connection: Connection, result: dict[str, Any], passed: bool | str
) -> None:
    await set_scale(client)
    student, course = await new_student(client), await new_course(client)
    await enroll(client, student, course)
    before = await everything(connection)

    answer = await complete(client, student, course, **result)

    if isinstance(passed, bool):
        assert (answer.body["passed"], answer.body["grade"]) == (passed, result.get("grade"))
        assert (await complete(client, student, course, **result)).body["outcome"] == "unchanged"
    else:
        code, pointer = passed.split()
        assert problem(answer, 422, code)["errors"][0]["pointer"] == pointer
        assert await everything(connection) == before


async def test_without_a_scale_a_grade_is_free_and_the_result_required(client: Client) -> None:
    student, course = await new_student(client), await new_course(client)
    await enroll(client, student, course)
    problem(await complete(client, student, course, grade="17/20"), 422, "invalid_result")
    assert (await complete(client, student, course, grade="17/20", passed=True)).status == 200
    # A later scale leaves the result as it is; the same call again changes nothing.
    await set_scale(client)
    repeated = await complete(client, student, course, grade="17/20", passed=True)
    assert (repeated.body["outcome"], repeated.body["grade"]) == ("unchanged", "17/20")
    assert codes(await complete(client, student, course, grade="17/20", passed=False)) == ["unknown_grade"]


@pytest.mark.parametrize(("grade", "admitted"), [("A", True), ("B", True), ("C", False), (None, False), ("old", False)])
async def test_a_prerequisite_needs_the_grade_or_a_better_one(
    client: Client, grade: str | None, admitted: bool
) -> None:
    first, second = await new_course(client, code="ONE"), await new_course(client)
    student = await graduate(client, first, grade, passed=True) if grade == "old" else None
    await set_scale(client)
    student = student or await graduate(client, first, grade, passed=True)
    assert (await require_grade(client, second, "B", "one", "OTHER")).body == {
        "groups": [{"kind": "pre", "any_of": ["OTHER", "one"], "min_grade": "B"}]
    }

    answer = await enroll(client, student, second)

    assert answer.status == (201 if admitted else 409)
    if not admitted:
        [error] = problem(answer, 409, "prerequisite_missing")["errors"]
        assert (error["any_of"], error["min_grade"]) == (["OTHER", "one"], "B")
        assert error["detail"].endswith("was passed with B or a better grade: OTHER, one.")


async def test_equivalent_codes_and_the_best_of_several_passes_count(client: Client) -> None:
    await set_scale(client)
    old, new, wanted = (
        await new_course(client, code="OLD"),
        await new_course(client, code="NEW"),
        await new_course(client),
    )
    student = await graduate(client, old, "A")
    await enroll(client, student, new)
    await complete(client, student, new, grade="C")
    await require_grade(client, wanted, "B", "NEW")
    assert codes(await enroll(client, student, wanted)) == ["prerequisite_missing"]
    await call(client, "POST", "/equivalences", {"codes": ["old", "new"]})
    assert (await enroll(client, student, wanted)).status == 201


@pytest.mark.parametrize("how", ["scale", "correction", "requirement"])
async def test_a_blocked_student_is_promoted_when_the_grade_suffices(
    client: Client, settings: Settings, how: str
) -> None:
    await set_scale(client)
    first, wanted = await new_course(client, code="ONE"), await new_course(client, capacity=0)
    student = await graduate(client, first, "C")
    assert (await join_waitlist(client, student, wanted)).status == 201
    await require_grade(client, wanted, "B", "ONE")
    await call(client, "PATCH", f"/courses/{wanted}", {"capacity": 1})
    place = await read(client, f"/students/{student}/courses/{wanted}")
    assert bare(place["blocked_by"]) == [{"code": "prerequisite_missing", "any_of": ["ONE"], "min_grade": "B"}]

    match how:
        case "scale":
            assert (await set_scale(client, [SCALE[0], SCALE[2], SCALE[1], SCALE[3]])).status == 200
        case "correction":
            assert (await complete(client, student, first, grade="A")).status == 200
        case "requirement":
            assert (await require_grade(client, wanted, "C", "ONE")).status == 200

    assert await status_of(client, student, wanted) == "enrolled"
    assert await check(settings) == 0


async def test_a_requirement_names_a_grade_of_the_scale_which_then_stays(
    client: Client, connection: Connection
) -> None:
    course = await new_course(client)
    refused = await require_grade(client, course, "B", "ONE")
    assert problem(refused, 422, "unknown_grade")["errors"][0]["pointer"] == "#/groups/0/min_grade"
    await set_scale(client)
    assert (await require_grade(client, course, "B", "ONE")).status == 200
    body = {"groups": [{"kind": "co", "any_of": ["ONE"], "min_grade": "B"}]}
    assert places(await call(client, "PUT", f"/courses/{course}/requirements", body)) == [
        ("min_grade_of_pre", "#/groups/0")
    ]
    before = await everything(connection)
    for scale in ([], [SCALE[0]]):
        [error] = problem(await set_scale(client, scale), 409, "grade_in_use")["errors"]
        assert (error["pointer"], f"Course {course} requires the grade B" in error["detail"]) == ("#/grades", True)
    assert await everything(connection) == before

    assert (await require_grade(client, course, None, "ONE")).body == {"groups": [{"kind": "pre", "any_of": ["ONE"]}]}
    assert (await set_scale(client, [SCALE[0]])).status == 200


async def test_a_scale_has_each_grade_once(client: Client) -> None:
    assert places(await set_scale(client, [SCALE[0], {"grade": "A", "passes": False}])) == [
        ("repeated_grade", "#/grades")
    ]
    # Case matters, as it does for the grades of a result.
    assert (await set_scale(client, [SCALE[0], {"grade": "a", "passes": False}])).status == 200


async def test_enrollments_without_a_required_grade_send_no_further_statement(
    client: Client, settings: Settings
) -> None:
    await set_scale(client)
    first, plain, graded = await new_course(client, code="ONE"), await new_course(client), await new_course(client)
    students = [await graduate(client, first, "A") for _ in range(3)]
    await require_grade(client, plain, None, "ONE")
    await require_grade(client, graded, "B", "ONE")
    counts = []
    async with counted(settings) as (office, sent):
        for student, course in [
            (students[0], plain),
            (students[1], plain),
            (students[1], graded),
            (students[2], graded),
        ]:
            sent.clear()
            await office.submit(Enroll(origin=Origin("r"), student_id=student, course_ids=(course,)))
            counts.append([*sent])
        for student in students[:2]:
            sent.clear()
            await office.submit(Complete(origin=Origin("r"), student_id=student, course_id=plain, passed=True))
            counts.append([*sent])
    assert counts[1] == statements_of_enroll(office)
    assert not [each for each in counts[0] if "grades" in each], "the scale is not loaded"
    assert (
        len([each for each in counts[4] if "FROM grades" in each])
        + len([each for each in counts[2] if "FROM grades" in each])
        <= 2
    )
    assert not [each for each in counts[5] if "FROM grades" in each], "the catalog has the scale"
