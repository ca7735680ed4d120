"""Dropping a course that another one needs as its corequisite: refused alone, possible together."""

from typing import Any

import pytest

from service.check import check
from service.errors import DropRefused
from service.registrar.changes import Origin
from service.registrar.enrollments import Drop
from service.settings import Settings
from sql.requirements import LOAD_REQUIREMENTS
from tests import shared
from tests.campus import Answer, bare, call, drop, enroll, join_waitlist, new_course, new_student, problem, read
from tests.conftest import Client
from tests.test_optimistic import counted
from tests.test_registrar import codes, grant, status_of
from tests.test_requirements import FALL, SPRING, complete, term_of
from tests.test_swaps import swap

pytestmark, service, client, connection, settings = shared.SERVICE


async def require_any(client: Client, course: int, *any_of: str) -> None:
    body = {"groups": [{"kind": "co", "any_of": any_of}] if any_of else []}
    assert (await call(client, "PUT", f"/courses/{course}/requirements", body)).status == 200


async def lecture_and_lab(client: Client, **lecture: object) -> tuple[int, int, int]:
    """Enroll a student in a lecture and in the lab that needs it; return the student and both."""
    lecture_id = await new_course(client, **{"code": "LEC", **lecture})
    lab, student = await new_course(client, code="LAB"), await new_student(client)
    await require_any(client, lab, "lec", "ALT")
    assert (await enroll(client, student, lecture_id, lab)).status == 201
    return student, lecture_id, lab


async def statuses(client: Client, student: int, *courses: int) -> list[Any]:
    return [await status_of(client, student, course) for course in courses]


def outcomes(answer: Answer) -> list[tuple[int, str]]:
    return [(result["course_id"], result["outcome"]) for result in answer.body["results"]]


async def test_a_needed_course_is_dropped_only_together_with_the_course_that_needs_it(
    client: Client, settings: Settings
) -> None:
    student, lecture, lab = await lecture_and_lab(client)

    [error] = problem(await drop(client, student, lecture), 409, "corequisite_needed")["errors"]
    assert (error["course_id"], error["with_course_id"]) == (lecture, lab)
    refused = await swap(client, student, [lecture], [])
    [error] = problem(refused, 409, "corequisite_needed")["errors"]
    assert (error["pointer"], error["with_course_id"]) == ("#/drop/0", lab)
    assert await statuses(client, student, lecture, lab) == ["enrolled", "enrolled"]

    both = await swap(client, student, [lecture, lab], [])
    assert (both.status, outcomes(both)) == (200, [(lecture, "dropped"), (lab, "dropped")])
    repeated = await swap(client, student, [lecture, lab], [], "waitlist")
    assert (repeated.status, outcomes(repeated)) == (200, [(lecture, "unchanged"), (lab, "unchanged")])
    assert await check(settings) == 0


async def test_the_course_that_needs_another_one_can_be_dropped_alone(client: Client) -> None:
    student, lecture, lab = await lecture_and_lab(client)
    assert (await drop(client, student, lab)).status == 200
    assert (await drop(client, student, lecture)).status == 200


@pytest.mark.parametrize("how", ["passed", "another", "waitlisted", "equivalent", "completed", "swapped", "override"])
async def test_a_course_can_be_dropped_that_is_not_the_only_corequisite(client: Client, how: str) -> None:
    student, lecture, lab = await lecture_and_lab(client)
    other = await new_course(client, code="EQU" if how == "equivalent" else "ALT")
    match how:
        case "passed":
            await enroll(client, student, other)
            await complete(client, student, other)
        case "another":
            await enroll(client, student, other)
        case "waitlisted":
            await call(client, "PATCH", f"/courses/{other}", {"capacity": 0})
            assert (await join_waitlist(client, student, other)).status == 201
        case "equivalent":
            assert (await call(client, "POST", "/equivalences", {"codes": ["equ", "alt"]})).status == 201
            await enroll(client, student, other)
        case "completed":
            await complete(client, student, lab)
        case "swapped":
            answer = await swap(client, student, [lecture], [other])
            assert (answer.status, outcomes(answer)) == (201, [(lecture, "dropped"), (other, "enrolled")])
            return
        case "override":
            await grant(client, student, lecture, "corequisite_needed")

    assert (await drop(client, student, lecture)).status == 200
    assert await statuses(client, student, lecture) == ["dropped"]


async def test_a_failed_course_serves_nobody_as_a_corequisite(client: Client) -> None:
    student, lecture, _ = await lecture_and_lab(client)
    other = await new_course(client, code="ALT")
    await enroll(client, student, other)
    await complete(client, student, other, passed=False)
    assert codes(await drop(client, student, lecture)) == ["corequisite_needed"]


async def test_equivalent_codes_are_needed_too(client: Client) -> None:
    lecture, lab, student = await new_course(client, code="OLD"), await new_course(client), await new_student(client)
    created = await call(client, "POST", "/equivalences", {"codes": ["old", "new"]})
    await require_any(client, lab, "NEW")
    assert (await enroll(client, student, lecture, lab)).status == 201
    assert codes(await drop(client, student, lecture)) == ["corequisite_needed"]
    await call(client, "DELETE", f"/equivalences/{created.body['id']}")
    assert (await drop(client, student, lecture)).status == 200


async def test_only_a_course_of_an_overlapping_term_is_needed(client: Client) -> None:
    spring, fall = await term_of(client, "S", *SPRING), await term_of(client, "F", *FALL)
    student = await new_student(client)
    lecture, lab = await new_course(client, code="LEC", term_id=spring), await new_course(client, term_id=fall)
    assert (await enroll(client, student, lecture, lab)).status == 201
    await require_any(client, lab, "LEC")
    assert (await drop(client, student, lecture)).status == 200


async def test_the_office_cancels_a_needed_course_and_anyone_leaves_its_waitlist(client: Client) -> None:
    student, lecture, lab = await lecture_and_lab(client)
    assert (await call(client, "POST", f"/courses/{lecture}/cancel")).status == 200
    assert await statuses(client, student, lecture, lab) == ["dropped", "enrolled"]

    other, waiting = await new_course(client, code="LEC", capacity=0), await new_student(client)
    body = {"course_ids": [other, lab], "on_full": "waitlist"}
    assert (await call(client, "POST", f"/students/{waiting}/enroll", body)).status == 201
    assert (await drop(client, waiting, other)).status == 200


async def waiting_swap(client: Client) -> tuple[int, int, int, int, int]:
    """Let a swap wait that drops a lecture, which a lab then needs.

    Return the student, the lecture, the lab, the full course, and the student who has its seat.
    """
    lecture, lab = await new_course(client, code="LEC"), await new_course(client, code="LAB")
    wanted, student, seated = await new_course(client, capacity=1), await new_student(client), await new_student(client)
    await enroll(client, seated, wanted)
    assert (await enroll(client, student, lecture, lab)).status == 201
    assert (await swap(client, student, [lecture], [wanted], "waitlist")).status == 201
    await require_any(client, lab, "LEC")
    return student, lecture, lab, wanted, seated


@pytest.mark.parametrize(
    "how", ["drop", "complete", "require", "partner", "override", "cancel", "term", "code", "equate", "part"]
)
async def test_a_swap_that_would_drop_a_needed_course_waits_until_it_is_not_needed(
    client: Client, settings: Settings, how: str
) -> None:
    student, lecture, lab, wanted, seated = await waiting_swap(client)
    other, set_id = await new_course(client, code="OTHER"), None
    if how in {"term", "code", "equate"}:
        await enroll(client, student, other)
    if how == "part":
        await require_any(client, lab, "NEW")
        set_id = (await call(client, "POST", "/equivalences", {"codes": ["LEC", "NEW"]})).body["id"]
    await drop(client, seated, wanted)
    place = await read(client, f"/students/{student}/courses/{wanted}")
    assert (place["status"], bare(place["blocked_by"])) == (
        "waitlisted",
        [{"code": "corequisite_needed", "with_course_id": lab}],
    )
    late = await new_student(client)
    assert (await enroll(client, late, wanted)).status == 201
    await drop(client, late, wanted)

    match how:
        case "drop":
            assert (await drop(client, student, lab)).status == 200
        case "complete":
            await complete(client, student, lab)
        case "require":
            await require_any(client, lab)
        case "partner":
            await require_any(client, lab, "LEC", "OTHER")
            assert await status_of(client, student, wanted) == "waitlisted"
            assert (await enroll(client, student, other)).status == 201
        case "override":
            await grant(client, student, lecture, "corequisite_needed")
        case "cancel":
            await call(client, "POST", f"/courses/{lab}/cancel")
        case "term":
            spring, fall = await term_of(client, "S", *SPRING), await term_of(client, "F", *FALL)
            await call(client, "PATCH", f"/courses/{lecture}", {"term_id": spring})
            await call(client, "PATCH", f"/courses/{lab}", {"term_id": fall})
        case "code":
            await require_any(client, lab, "LEC", "NEW")
            assert await status_of(client, student, wanted) == "waitlisted"
            await call(client, "PATCH", f"/courses/{other}", {"code": "NEW"})
        case "equate":
            await call(client, "POST", "/equivalences", {"codes": ["LEC", "OTHER"]})
        case "part":
            await call(client, "DELETE", f"/equivalences/{set_id}")

    assert await statuses(client, student, wanted, lecture) == ["enrolled", "dropped"]
    assert await check(settings) == 0


async def test_a_swap_of_both_waits_and_drops_both(client: Client) -> None:
    student, lecture, lab, wanted, seated = await waiting_swap(client)
    assert (await swap(client, student, [lab, lecture], [wanted], "waitlist")).status == 200
    await drop(client, seated, wanted)
    assert await statuses(client, student, wanted, lecture, lab) == ["enrolled", "dropped", "dropped"]


async def test_a_drop_of_a_course_that_nobody_needs_sends_no_further_statement(
    client: Client, settings: Settings
) -> None:
    """Neither does a drop of a needed course, once the requirements are in the catalog."""
    student, lecture, lab = await lecture_and_lab(client)
    one, other = await new_course(client), await new_course(client)
    plain, plain_too = await new_student(client), await new_student(client)
    await enroll(client, plain, one, other)
    await enroll(client, plain_too, one, other)
    third = await new_student(client)
    await enroll(client, third, lecture, lab)

    def dropping(who: int, course: int) -> Drop:
        return Drop(origin=Origin("r"), student_id=who, course_id=course)

    counts = []
    async with counted(settings) as (office, sent):
        for who, course, refused in (
            *((plain, one, False), (plain_too, one, False)),
            *((student, lecture, True), (third, lecture, True), (third, lab, False), (third, lecture, False)),
        ):
            sent.clear()
            [outcome] = await office.submit_all([dropping(who, course)])
            assert isinstance(outcome, DropRefused) == refused
            counts.append([*sent])
    cold, warm, _, again, _, lecture_alone = counts
    assert LOAD_REQUIREMENTS in cold
    assert len(again) <= len(warm)
    assert LOAD_REQUIREMENTS not in [*warm, *again, *lecture_alone]
    assert lecture_alone == warm
