"""The campuses of ``demo``: the same every time, and of the documented size."""

from datetime import date, timedelta

from service.demo.campus import Campus, last_and_next_term, plan
from tests.test_process import run


def codes(campus: Campus) -> list[str]:
    return [course.code for course in campus.next]


def test_a_plan_is_the_same_every_time() -> None:
    assert plan("small") == plan("small")


def test_a_large_campus_has_20000_students_and_800_courses_that_fit_together() -> None:
    campus = plan("large")

    assert len(campus.students) == len({student.fields["email"] for student in campus.students}) == 20_000
    assert len(campus.next) == len(set(codes(campus))) == 800
    taught_before = {course.code for course in campus.last}
    required = {code for course in campus.next for group in course.groups for code in group.codes}
    assert required
    assert required <= taught_before
    for student in campus.students:
        assert len(set(student.wishes)) == len(student.wishes)
        assert set(student.passed) <= taught_before
        assert not set(student.wishes) & set(student.passed)
        assert student.swap_for not in student.wishes


async def test_the_demo_prints_a_registration_day_and_ends_with_the_check(empty_database_url: str) -> None:
    ended = await run("demo", "--size", "small", DATABASE_URL=empty_database_url)

    assert ended.status == 0, ended.err
    numbers = {name: count for name, _, count in (line.rpartition(" ") for line in ended.out.splitlines())}
    counts = {name.strip(): count for name, count in numbers.items()}
    for name in ("requests", "enrolled", "waitlisted", "refused: time_conflict", "promoted"):
        assert int(counts[name].replace(",", "")) > 0, name
    assert "ok    no seat is free while an unjudged student is waitlisted" in ended.out


async def test_an_unknown_size_is_reported_clearly() -> None:
    ended = await run("demo", "--size", "huge", DATABASE_URL="postgresql://nowhere.invalid/x")

    assert ended.status == 2
    assert "huge" in ended.err


def test_the_terms_of_the_demo_are_the_last_one_and_the_next_one_on_every_day() -> None:
    for number in range(3 * 366):
        today = date(2026, 11, 26) + timedelta(days=number)
        last, coming = last_and_next_term(today)
        assert last["ends_on"] < today < coming["starts_on"]
        assert today - last["ends_on"] < timedelta(days=250)
        assert coming["starts_on"] - today < timedelta(days=250)
        assert last["code"] != coming["code"]
