"""Swaps: the courses that a student drops for another one, when they are dropped, and changes until then."""

from typing import Any

import pytest

from service.check import check
from service.settings import Settings
from sql import Connection
from tests import shared
from tests.campus import Answer, call, create, drop, enroll, events, new_course, new_student, read
from tests.conftest import Client
from tests.test_registrar import PAST, TERM, codes, grant, status_of

pytestmark, service, client, connection, settings = shared.SERVICE


async def swap(client: Client, student: int, drops: list[int], adds: list[int], on_full: str = "fail") -> Answer:
    body = {"drop": drops, "add": adds, "on_full": on_full}
    return await call(client, "POST", f"/students/{student}/swap", body)


async def overloaded(client: Client, term: dict[str, Any], **fields: object) -> tuple[int, int]:
    """Enroll a student for 6 of 4 allowed credits; return the student and the course of 3 that an override allowed."""
    student = await new_student(client, **fields)
    one, other = [await new_course(client, credits=3, term_id=term["id"]) for _ in range(2)]
    await enroll(client, student, one)
    await grant(client, student, other, "credit_limit")
    assert (await enroll(client, student, other)).status == 201
    return student, other


@pytest.mark.parametrize("own", [None, 4])
async def test_above_the_credit_limit_only_requests_that_raise_the_credits_are_refused(
    client: Client, settings: Settings, own: int | None
) -> None:
    term = await create(client, "/terms", {**TERM, "max_credits": 4 if own is None else None})
    student, held = await overloaded(client, term, max_credits=own)
    lab, even, less, more = [await new_course(client, credits=n, term_id=term["id"]) for n in (0, 3, 1, 3.5)]

    assert (await enroll(client, student, lab)).status == 201
    assert codes(await swap(client, student, [held], [more])) == ["credit_limit"]
    assert codes(await swap(client, student, [held], [even, less])) == ["credit_limit", "credit_limit"]
    assert codes(await enroll(client, student, less)) == ["credit_limit"]
    assert (await swap(client, student, [held], [even])).status == 201
    assert (await swap(client, student, [even], [less])).status == 201
    # The override is used: after the drop it does not allow the credits again.
    assert codes(await swap(client, student, [less], [even])) == ["credit_limit"]
    assert await check(settings) == 0


async def test_a_course_without_credits_is_not_refused_by_the_credit_limit_in_a_request_for_several(
    client: Client,
) -> None:
    term = await create(client, "/terms", {**TERM, "max_credits": 4})
    student = await new_student(client)
    lab, course = [await new_course(client, credits=credits, term_id=term["id"]) for credits in (0, 5)]

    [refusal] = (await enroll(client, student, lab, course)).body["errors"]

    assert (refusal["code"], refusal["course_id"], refusal["asked"]) == ("credit_limit", course, 5)


async def test_an_even_swap_above_the_limit_waits_for_a_seat_and_gets_it(client: Client, settings: Settings) -> None:
    term = await create(client, "/terms", {**TERM, "max_credits": 4})
    student, held = await overloaded(client, term)
    full, seated = await new_course(client, credits=3, capacity=1, term_id=term["id"]), await new_student(client)
    await enroll(client, seated, full)
    assert (await swap(client, student, [held], [full], "waitlist")).status == 201

    await drop(client, seated, full)

    assert [await status_of(client, student, course) for course in (held, full)] == ["dropped", "enrolled"]
    assert await check(settings) == 0


async def test_a_student_above_a_lowered_limit_may_swap_evenly_and_check_reports_a_note(
    client: Client, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    term = await create(client, "/terms", {**TERM, "max_credits": 6})
    student = await new_student(client)
    one, other = [await new_course(client, credits=6, term_id=term["id"]) for _ in range(2)]
    await enroll(client, student, one)
    await call(client, "PATCH", f"/terms/{term['id']}", {"max_credits": 3})

    assert (await swap(client, student, [one], [other])).status == 201

    assert await check(settings) == 0
    assert f"student_id={student}, term_id={term['id']}, held=6.0, allowed=3.0, edited=True" in capsys.readouterr().out


async def waiting_swap(client: Client, *, drops: int = 1) -> tuple[int, list[int], int, int]:
    """Waitlist a student by a swap; return the student, the courses to drop, the full course, and who has its seat."""
    held = [await new_course(client) for _ in range(drops)]
    wanted, student, seated = await new_course(client, capacity=1), await new_student(client), await new_student(client)
    await enroll(client, seated, wanted)
    await enroll(client, student, *held)
    assert (await swap(client, student, held, [wanted], "waitlist")).status == 201
    return student, held, wanted, seated


async def pending(client: Client, student: int) -> dict[int, tuple[object, object]]:
    """Return the ``swap_drops`` and ``swap_adds`` of a student's courses."""
    items = (await read(client, f"/students/{student}/courses"))["items"]
    return {item["course_id"]: (item["swap_drops"], item["swap_adds"]) for item in items}


async def test_pending_drops_are_shown_on_both_courses_and_on_the_waitlist(client: Client) -> None:
    student, held, wanted, seated = await waiting_swap(client, drops=2)
    other = await new_course(client, capacity=0)
    assert (await swap(client, student, held[:1], [other], "waitlist")).status == 201

    assert await pending(client, student) == {
        held[0]: (None, [wanted, other]),
        held[1]: (None, [wanted]),
        wanted: (held, None),
        other: (held[:1], None),
    }
    [waiting] = (await read(client, f"/courses/{wanted}/students?status=waitlisted"))["items"]
    assert (waiting["student_id"], waiting["swap_drops"]) == (student, held)
    assert await pending(client, seated) == {wanted: (None, None)}
    [on_roster] = (await read(client, f"/courses/{wanted}/students"))["items"]
    assert on_roster["swap_drops"] is None


async def test_pending_drops_are_cleared_by_a_call_and_the_waitlist_place_stays(
    client: Client, settings: Settings, connection: Connection
) -> None:
    student, [held], wanted, seated = await waiting_swap(client)
    path = f"/students/{student}/courses/{wanted}/swap"

    cleared = await call(client, "DELETE", path)

    assert cleared.status == 200
    shown = {name: cleared.body[name] for name in ("outcome", "status", "position", "swap_drops")}
    assert shown == {"outcome": "kept", "status": "waitlisted", "position": 1, "swap_drops": None}
    last = (await events(connection))[-1]
    assert (last["type"], last["before"]["swap_drops"], last["after"]["swap_drops"]) == (
        "enrollment.updated",
        [held],
        [],
    )
    assert (await call(client, "DELETE", path)).body == {**cleared.body, "outcome": "unchanged"}
    assert len(await events(connection)) == last["position"]
    await drop(client, seated, wanted)
    assert [await status_of(client, student, course) for course in (held, wanted)] == ["enrolled", "enrolled"]
    assert (await call(client, "DELETE", path)).body["outcome"] == "unchanged"
    assert (await call(client, "DELETE", f"/students/{seated}/courses/{held}/swap")).status == 404
    assert await check(settings) == 0


async def test_a_student_blocked_by_a_refused_drop_gets_the_free_seat_by_clearing_it(client: Client) -> None:
    term = await create(client, "/terms", TERM)
    student, [held], wanted, seated = await waiting_swap(client)
    await call(client, "PATCH", f"/courses/{held}", {"term_id": term["id"]})
    await call(client, "PATCH", f"/terms/{term['id']}", {"drop_until": PAST, "withdraw_until": PAST})
    await drop(client, seated, wanted)
    assert await status_of(client, student, wanted) == "waitlisted"

    cleared = await call(client, "DELETE", f"/students/{student}/courses/{wanted}/swap")

    assert (cleared.body["outcome"], cleared.body["status"], cleared.body["position"]) == ("kept", "enrolled", None)
    assert await status_of(client, student, held) == "enrolled"


@pytest.mark.parametrize("how", ["completed", "dropped", "swapped", "cancelled"])
async def test_a_pending_drop_lapses_when_the_course_is_completed_or_left(
    client: Client, settings: Settings, how: str
) -> None:
    student, [held, kept], wanted, seated = await waiting_swap(client, drops=2)
    again = how in {"dropped", "swapped"}
    match how:
        case "completed":
            await call(client, "POST", f"/students/{student}/courses/{held}/complete", {"passed": True})
        case "dropped":
            await drop(client, student, held)
        case "swapped":
            assert (await swap(client, student, [held], [await new_course(client)])).status == 201
        case "cancelled":
            await call(client, "POST", f"/courses/{held}/cancel")
    if again:
        assert (await enroll(client, student, held)).status == 201
    assert (await pending(client, student))[wanted] == ([kept], None)
    assert await check(settings) == 0

    await drop(client, seated, wanted)

    assert [await status_of(client, student, course) for course in (kept, wanted)] == ["dropped", "enrolled"]
    expected = {"completed": "completed", "dropped": "enrolled", "swapped": "enrolled", "cancelled": "dropped"}[how]
    assert await status_of(client, student, held) == expected
    assert await check(settings) == 0


async def test_a_course_dropped_by_a_promotion_lapses_in_other_swaps(
    client: Client, settings: Settings, connection: Connection
) -> None:
    student, held, wanted, seated = await waiting_swap(client)
    other = await new_course(client, capacity=0)
    assert (await swap(client, student, held, [other], "waitlist")).status == 201

    await drop(client, seated, wanted)

    assert (await pending(client, student)) == {wanted: (None, None), other: (None, None)}
    newest = [(event["type"], event["course_id"]) for event in (await events(connection))[-3:]]
    assert newest == [("enrollment.dropped", held[0]), ("enrollment.updated", other), ("enrollment.promoted", wanted)]
    assert await check(settings) == 0
