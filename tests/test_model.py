"""The service compared with a simple sequential model: the same outcomes, states and waitlists."""

import asyncio
import json
import os
import random
from collections.abc import Callable, Collection
from copy import deepcopy
from itertools import count, permutations, product
from typing import Any, NamedTuple

import hypothesis
import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import HealthCheck, strategies

from service.app import create_app
from service.check import INVARIANTS
from service.registrar import load
from service.settings import Settings
from sql import Connection
from tests.campus import Answer, call, course_fields, create, new_student, read, until_ready
from tests.conftest import Client
from tests.model import PARTS, SEATED, Course, Meeting, Model, Refused, Term, fold

HISTORIES = int(os.environ.get("HISTORIES", "40"))
"""The number of random histories; use some thousands for a long run."""
CONCURRENT_HISTORIES = max(12, HISTORIES // 4)
LONG_HISTORIES = max(4, HISTORIES // 10)
STEPS = 16
AT_ONCE = {"enroll", "drop", "swap", "complete", "capacity", "cancel", "annul", "remove_completion", "reopen"}
NUMBERS = count()
PAST, AHEAD = "2001-01-01T00:00:00Z", "2999-01-01T00:00:00Z"
RULES = [
    "hold", "prerequisite_missing", "corequisite_missing", "antirequisite", "duplicate_course", "time_conflict", "credit_limit",
    "seats_reserved", "course_full", "waitlist_full", "drop_closed", "corequisite_needed", "enrollment_closed",
]  # fmt: skip
DAYS = ["mon", "tue"]
KINDS = ["pre", "pre*", "co", "anti"]
GRADES = ["A", "C", "F", "X"]
SCALES = [[], [("A", True), ("C", True), ("F", False)], [("C", True), ("A", True), ("X", False)]]
GRADED: set[int] = set()
"""Courses that require grades; all histories of a test share the scale."""
GROUPS = ["a", "b"]
Step = tuple[str, tuple[Any, ...]]
ITEMS = {
    "enroll": ("student_id", "course_ids", "mode", "on_full"),
    "drop": ("student_id", "course_id"),
    "swap": ("student_id", "drop", "add", "on_full"),
    "complete": ("student_id", "course_id", "passed", "grade"),
}
"""The steps that a bulk request can have as items, with their members in the order of the arguments."""
WRITABLE = {
    "external_id",
    "code",
    "section",
    "title",
    "credits",
    "term_id",
    "capacity",
    "waitlist_capacity",
    "meetings",
}
WRITABLE |= {"given_name", "family_name", "email", "max_credits", "groups"}


class Known(NamedTuple):
    """The state on which the service and the model must agree after every request."""

    waitlists: dict[int, list[int]]
    states: dict[tuple[int, int], tuple[str, bool | None]]
    swaps: dict[tuple[int, int], list[int]]
    """The courses to drop when the waitlisted student gets a seat."""
    overrides: set[tuple[Any, ...]]
    """Unused overrides."""
    teachers: dict[int, list[int]]
    """The instructors of each course that has some, the primary one first."""
    reserved: dict[tuple[int, int], str]
    """The groups of the reserved seats."""
    lost: set[tuple[int, int]]
    """The seats that have lost a requirement."""

    def seen(self) -> tuple[dict[int, list[int]], dict[tuple[int, int], str]]:
        """Return only the parts that the lists of the API show."""
        return self.waitlists, {key: status for key, (status, _) in self.states.items()}


class Campus:
    """A random campus, in the service and in the model under the same ids."""

    def __init__(self, client: Client, chance: random.Random, students: int | None = None) -> None:
        self.client = client
        self.chance = chance
        self.students = students or chance.randint(3, 5)
        self.model = Model()
        self.hold_ids: list[tuple[int, int, str]] = []
        self.override_ids: dict[tuple[int, int, str], int] = {}
        self.set_ids: dict[frozenset[str], int] = {}
        self.sequences = chance.choice([0, 0.05, 0.5])
        """The share of the steps that concern a course in progress."""
        self.pairs = 0 if self.sequences > 0.1 else chance.choice([0, 0.1, 0.7])
        """The share of the steps that concern two courses which need each other."""

    async def build(self) -> None:
        chance = self.chance
        # The histories of a test share a database, and equivalent codes concern all of them.
        for each in (await read(self.client, "/equivalences"))["items"]:
            await call(self.client, "DELETE", f"/equivalences/{each['id']}")
        for id in GRADED:
            await call(self.client, "PUT", f"/courses/{id}/requirements", {"groups": []})
        GRADED.clear()
        self.model.scale = chance.choice(SCALES)
        assert await self.serve(("scale", (self.model.scale,))) == 200
        early_and_late = [frozenset({1}), frozenset({3})] if self.sequences > 0.1 else []
        for number in range(chance.randint(len(early_and_late), 3)):
            limit = chance.choice([None, 4.0, 8.0, 4.6])
            halves = early_and_late[number] if number < len(early_and_late) else chance.choice(HALVES)
            fields: dict[str, object] = {"name": "T", **dates(halves), "max_credits": limit}
            code = f"T{next(NUMBERS)}"
            fields |= {"enroll_until": AHEAD, "drop_until": AHEAD, "withdraw_until": AHEAD}
            term = await create(self.client, "/terms", {"code": code, **fields})
            self.model.terms[term["id"]] = Term(halves, limit)
            if chance.random() < 0.6 and not early_and_late:
                step = "parent", (term["id"], chance.choice([*self.model.terms]))
                assert await self.serve(step) == modelled(self.model, step)
        for number in range(chance.randint(2, 4)):
            sibling = number > 0 and chance.random() < 0.3
            course = Course(
                code="C0" if sibling else f"C{number}",
                section=f"s{number}" if sibling or chance.random() < 0.2 else "",
                term=chance.choice([None, *self.model.terms, *self.model.terms]),
                credits=chance.choice([1.0, 3.0, 4.5, 0.1, 1.2]),
                capacity=chance.choice([0, 1, 1, 2, None]),
                waitlist_capacity=chance.choice([0, 1, 2, None, None]),
                meetings=self.meetings(),
            )
            if number < len(early_and_late):
                course.term, course.code, course.capacity = [*self.model.terms][number], f"C{number}", 2
            if number < 2 and self.pairs > 0.1:
                course.code, course.section, course.term = f"C{number}", "", None
                course.capacity, course.waitlist_capacity, course.meetings = chance.choice([0, 1]), None, []
            if not self.model.can_meet(course.meetings, course.term):
                course.meetings = []
            body: dict[str, object] = {"term_id": course.term, "credits": course.credits, "capacity": course.capacity}
            body |= {"waitlist_capacity": course.waitlist_capacity, "meetings": shown(course.meetings)}
            body["section"] = course.section or None
            body["external_id"] = f"c{next(NUMBERS)}"
            row = await create(self.client, "/courses", course_fields(code=course.code, **body))
            self.model.courses[row["id"]] = course
        for id in chance.sample(list(self.model.courses), chance.randint(0, 2)):
            self.model.courses[id].groups = self.groups(id)
            await self.serve(("require", (id, self.model.courses[id].groups)))
        for _ in range(3):
            row = await create(self.client, "/instructors", {"given_name": "A"})
            self.model.instructors.append(row["id"])
        self.instructors = [*self.model.instructors]
        for _ in range(self.students):
            limit = chance.choice([None, None, 4.0])
            groups = sorted(chance.sample(GROUPS, chance.choice([0, 0, 1, 2])))
            key = f"s{next(NUMBERS)}"
            student = await new_student(self.client, max_credits=limit, groups=groups, external_id=key)
            self.model.limits[student], self.model.members[student] = limit, frozenset(groups)
        for id, it in self.model.courses.items():
            if chance.random() < 0.4:
                made: Step = "reserve", (id, self.reserved(it.capacity))
                assert await self.serve(made) == modelled(self.model, made)

    def reserved(self, capacity: int | None) -> list[tuple[str, int]]:
        """Choose reservations, mostly within a capacity."""
        groups = self.chance.sample(GROUPS, self.chance.choice([0, 1, 1, 2]))
        most = 2 if capacity is None or self.chance.random() < 0.1 else capacity // max(1, len(groups))
        return [(group, self.chance.randint(1, most)) for group in groups] if most else []

    def meetings(self) -> list[Meeting]:
        """Choose a meeting, often a plain one, sometimes in the night from Monday to Tuesday."""
        chance = self.chance
        if chance.random() < 0.4:
            return []
        start = chance.randint(8, 10)
        day, hours = chance.choice(
            [*((day, (start, start + chance.randint(1, 2))) for day in DAYS * 2), ("mon", (23, 25)), ("tue", (0, 1))]
        )
        if chance.random() < 0.5:
            return [(day, *hours, None, None, 1)]
        begin, until = (
            chance.choice([None, "2036-01-02", "2036-01-09", "2036-06-30"]),
            chance.choice([None, "2036-07-03"]),
        )
        return [(day, *hours, begin, until, chance.choice([1, 2, 2, 3]))]

    def groups(self, course: int) -> list[tuple[str, tuple[str, ...]]]:
        """Choose requirements, mostly with existing codes."""
        chance, courses = self.chance, self.model.courses
        codes = sorted({"X9", *(it.code.upper() for it in courses.values())} - {courses[course].code.upper()})
        return [
            (
                chance.choice(
                    ["pre", "pre A", "pre* C", "pre*", "co", "co", "anti", "anti"] if self.model.scale else KINDS
                ),
                tuple(sorted(self.spelt(code) for code in chance.sample(codes, min(len(codes), chance.randint(1, 2))))),
            )
            for _ in range(chance.randint(0, 2))
        ]

    def spelt(self, code: str) -> str:
        """Return a code in upper or lower case."""
        return self.chance.choice([code.upper(), code.lower()])

    def rush(self) -> list[Step]:
        """Let all students request the same course at the beginning, so that there are waitlists."""
        course = self.chance.choice(list(self.model.courses))
        students = self.chance.sample(list(self.model.limits), len(self.model.limits))
        courses = [*self.model.courses][:2] if self.pairs > 0.1 else [course]
        return [("enroll", (student, courses, "atomic", "waitlist")) for student in students]

    def pair(self) -> tuple[int, int]:
        """Choose a student and a course."""
        return self.chance.choice(list(self.model.limits)), self.chance.choice(list(self.model.courses))

    def step(self) -> Step:
        """Choose the next step, often one that affects a waitlist."""
        aimed = self.relaxing() or self.freeing() or self.blocking() if self.chance.random() < 0.4 else None
        aimed = self.sequence() if self.chance.random() < self.sequences else aimed
        aimed = self.partners() if self.chance.random() < self.pairs else aimed
        return aimed or self.any_step()

    def sequence(self) -> Step | None:
        """Choose a step that leads to a seat which depends on a course in progress, or from it."""
        model = self.model
        after = [
            (one, other)
            for one, other in permutations(model.courses, 2)
            if (early := model.courses[one].term) is not None
            and (late := model.courses[other].term) is not None
            and max(model.terms[early].halves) < min(model.terms[late].halves)
            and fold(model.courses[one].code) != fold(model.courses[other].code)
        ]
        if not after:
            return None
        one, other = after[0]
        named = [codes for kind, codes in model.courses[other].groups if kind == "pre*"]
        if not any(fold(model.courses[one].code) in map(fold, codes) for codes in named):
            return "require", (other, [("pre*", (self.spelt(model.courses[one].code),))])
        student = max(model.limits, key=lambda s: [c in model.of(s, {"enrolled"}) for c in (other, one)])
        student = self.chance.choice([student, student, *model.limits])
        mine = model.of(student, {"enrolled"})
        if one not in mine and other not in mine:
            return "enroll", (student, [one], "atomic", "fail")
        if other not in mine:
            return "enroll", (student, [other], "atomic", "fail")
        if one not in mine:
            again: list[Step] = [("enroll", (student, [one], "atomic", "fail")), ("complete", (student, one, True))]
            return self.chance.choice([*again, ("override", (student, other, "prerequisite_missing"))])
        return self.chance.choice([("complete", (student, one, False)), ("drop", (student, one)), ("cancel", (one,))])

    def partners(self) -> Step | None:
        """Choose a step that leads to waitlist places in two courses that need each other, or that frees a seat there."""
        model, chance = self.model, self.chance
        one, other = both = [*model.courses][:2]
        if model.key(model.courses[one].code) == model.key(model.courses[other].code):
            return None
        for course, partner in (both, both[::-1]):
            if not any(kind == "co" for kind, _ in model.courses[course].groups):
                return "require", (course, [("co", (self.spelt(model.courses[partner].code),))])
        waiting = [s for s in model.limits if len(model.of(s, {"waitlisted"})) > 1]
        if not waiting or chance.random() < 0.3:
            return "enroll", (chance.choice([*model.limits]), chance.sample(both, 2), "atomic", "waitlist")
        seated = [(s, c) for s in model.limits for c in both if c in model.of(s, {"enrolled"})]
        course = chance.choice([c for c in both if not model.free(c)] or both)
        steps: list[Step] = [("capacity", (course, model.seated_in(course) + chance.choice([0, 1, 1])))] * 3
        steps += [("swap", (s, both, [], "fail")) for s, _ in seated] + [("annul", each) for each in seated]
        steps += [("override", (s, course, "course_full")) for s in waiting]
        return chance.choice(steps)

    def blocking(self) -> Step | None:
        """Choose a step that could block a waitlisted student."""
        chance, model = self.chance, self.model
        waiting = [(student, course) for course in model.courses for student in self.waitlist(course)]
        if not waiting:
            return None
        student, course = chance.choice(waiting)
        others = [c for c in model.of(student, {"enrolled", "waitlisted", "completed"}) if c != course]
        codes = sorted({it.code.upper() for it in model.courses.values()} - {model.courses[course].code.upper()})
        mine = sorted({model.courses[c].code.upper() for c in others} & {*codes})
        steps: list[Step] = [("hold", (student, "enroll"))]
        steps += [("require", (course, [(kind, (code,))])) for kind in ("pre", "co") for code in codes]
        steps += [("require", (course, [("anti", (code,))])) for code in mine] * 2
        steps += [
            ("require", (c, [("co", (model.courses[d].code,))]))
            for d in model.pending_drops(student, course)
            for c in model.of(student, {"enrolled"}, {d})
            if fold(model.courses[c].code) != fold(model.courses[d].code)
        ] * 4
        steps += [("equate", ([model.courses[course].code.lower(), code],)) for code in mine]
        steps += [("meetings", (course, model.courses[c].meetings)) for c in others if model.courses[c].meetings] * 2
        if model.courses[course].term is not None:
            steps += [("limit", (student, 4.0)), ("term", (model.courses[course].term, "enroll_closed", True))]
        return chance.choice(steps)

    def freeing(self) -> Step | None:
        """Choose a step that frees a seat for a blocked student, or an override for a seat above the capacity."""
        blocked = [
            (student, course)
            for course in self.model.courses
            for student in self.waitlist(course)
            if self.model.unlifted(student, self.model.judge_waitlisted(student, course))
        ]
        if not blocked:
            return None
        student, course = self.chance.choice(blocked)
        steps: list[Step] = [("capacity", (course, None)), ("override", (student, course, "course_full"))]
        steps += [("drop", (s, course)) for s in self.model.limits if course in self.model.of(s, {"enrolled"})]
        needing = [
            c for d in self.model.pending_drops(student, course) for c in self.model.needing(student, d, {d}, [])
        ]
        steps += [("drop", (student, c)) for c in needing] * 3 + [("require", (c, [])) for c in needing] * 3
        return self.chance.choice(steps)

    def waitlist(self, course: int) -> list[int]:
        return [] if self.model.courses[course].cancelled else self.model.waitlist(course)

    def relaxing(self) -> Step | None:  # noqa: PLR0915 - one step for each reason
        """Choose a step that removes one of the reasons for which a student is blocked beside a free seat."""
        model = self.model
        reasons = [
            (student, reason)
            for course in model.courses
            for student in self.waitlist(course)
            if model.free(course) or model.lifted(student, course, "course_full")
            for reason in model.unlifted(student, model.judge_waitlisted(student, course))
        ]
        if not reasons:
            return None
        student, (course, code, params) = self.chance.choice(reasons)
        parameters = dict(params)
        has = {"enrolled", "waitlisted", "completed"}
        term = model.courses[course].term
        steps: list[Step] = []
        match code:
            case "corequisite_missing" | "prerequisite_missing":
                fitting = [
                    c
                    for c, it in model.courses.items()
                    if fold(it.code) in map(fold, parameters["any_of"]) and c != course
                ]
                steps += [("enroll", (student, [c], "atomic", "waitlist")) for c in fitting]
                steps += [("complete", (student, c, True)) for c in fitting]
                if "min_grade" in parameters:
                    steps += [("complete", (student, c, None, parameters["min_grade"])) for c in fitting] * 2
                    steps += [("scale", (scale,)) for scale in SCALES]
                passed = [model.courses[c].code for c in model.of(student, has)]
                steps += [
                    ("equate", ([code, mine],))
                    for code in parameters["any_of"]
                    for mine in passed
                    if fold(code) != fold(mine)
                ] * 2
                steps += [("require", (course, []))]
            case "antirequisite":
                holding = [
                    c for c in model.of(student, has) if fold(model.courses[c].code) == fold(parameters["course_code"])
                ]
                steps += [step for c in holding for step in (("drop", (student, c)), ("cancel", (c,)))]
                steps += [("edit", (c, "code", "X9")) for c in holding]
                steps += [("remove_completion", (student, c)) for c in holding]
                steps += [("part", (each,)) for each in model.sets] * 2
            case "duplicate_course":
                other = parameters["with_course_id"]
                steps += [("drop", (student, other)), ("cancel", (other,)), ("edit", (other, "code", "X9"))]
                steps += [
                    ("edit", (course, "term", None)),
                    ("edit", (other, "term", None)),
                    ("complete", (student, other, True)),
                ]
                steps += [("part", (each,)) for each in model.sets] * 4
                steps += [("dates", (each, self.chance.choice(HALVES))) for each in model.terms]
            case "time_conflict":
                other = parameters["with_course_id"]
                steps += [("drop", (student, other)), ("cancel", (other,)), ("meetings", (other, []))]
                steps += [("annul", (student, other))]
                steps += [("meetings", (other, self.meetings()))] * 2
                steps += [("dates", (each, self.chance.choice(HALVES))) for each in model.terms]
            case "credit_limit":
                steps += [("edit", (c, "credits", 0.0)) for c in model.of(student, {"enrolled", "completed"})]
                steps += [("limit", (student, 9.0)), ("edit", (course, "term", None))]
                steps += [("term", (parameters["term_id"], "limit", False))]
                steps += [("parent", (id, None)) for id, it in model.terms.items() if it.parent is not None]
            case "hold":
                steps += [("end_hold", (student, "enroll"))]
            case "seats_reserved":
                steps += [("reserve", (course, [])), ("join", (student, [parameters["group"]]))]
                steps += [("capacity", (course, 3)), ("override", (student, course, "seats_reserved"))]
                steps += [("drop", (s, course)) for s in model.limits if course in model.of(s, {"enrolled"})]
            case "enrollment_closed":
                steps += [("term", (term, "enroll_closed", False))]
        return self.chance.choice(steps) if steps else None

    def any_step(self, only: Collection[str] | None = None) -> Step:  # noqa: PLR0915 - a case for each step
        """Choose any step, or one of these kinds; where that is not possible, a drop."""
        chance, model = self.chance, self.model
        student, courses = chance.choice(list(model.limits)), list(model.courses)
        course, term = chance.choice(courses), chance.choice([None, *model.terms])
        some = chance.sample(courses, chance.randint(1, len(courses)))
        on_full = chance.choice(["fail", "waitlist", "waitlist"])
        kinds = (
            ["enroll"] * 7
            + ["drop"] * 3
            + ["swap"] * 3
            + ["complete", "capacity", "capacity", "waitlist_capacity", "meetings"]
        )
        kinds += ["limit", "hold", "end_hold", "end_hold", "override", "override", "require", "require", "cancel"]
        kinds += ["term", "term", "dates", "parent", "edit", "edit", "end_override", "bulk", "keep", "equate", "part"]
        kinds += [
            "teach",
            "teach",
            "dismiss",
            "annul",
            "remove_completion",
            "reopen",
            "merge",
            "scale",
            "reserve",
            "reserve",
            "join",
            "put",
        ]
        match chance.choice([kind for kind in kinds if only is None or kind in only]):
            case "enroll":
                wanted = some + ([9_999_999] if chance.random() < 0.1 else [])
                return "enroll", (student, wanted, chance.choice(["atomic", "partial"]), on_full)
            case "swap" if len(courses) > 1:
                out, *into = chance.sample(courses, 2 if on_full == "waitlist" else chance.randint(2, len(courses)))
                mine = model.of(student, {"enrolled"}, into)
                outs = chance.sample(mine, chance.choice([1, 1, len(mine)])) if mine else [out]
                return "swap", (student, outs, chance.choice([into, into, into, []]), on_full)
            case "keep":
                swaps = [key for key, state in model.states.items() if state.drops]
                return "keep", chance.choice(swaps) if swaps else (student, course)
            case "annul" | "remove_completion" | "reopen" | "merge" as taken:
                return taken, chance.choice(self.targets(taken) or [(student, course)[taken == "reopen" :]])
            case "complete":
                graded = student, course, chance.choice([None, None, True]), chance.choice(GRADES)
                return "complete", chance.choice([(student, course, chance.random() < 0.7), graded])
            case "scale":
                return "scale", (chance.choice(SCALES),)
            case "capacity":
                return "capacity", (course, chance.choice([0, 1, 2, 3, None]))
            case "waitlist_capacity":
                return "waitlist_capacity", (course, chance.choice([0, 1, 2, None]))
            case "meetings":
                return "meetings", (course, self.meetings())
            case "limit":
                return "limit", (student, chance.choice([None, 4.0, 9.0]))
            case "term" if term is not None:
                return "term", (
                    term,
                    chance.choice(["limit", "enroll_closed", "drop_late", "drop_closed"]),
                    chance.random() < 0.5,
                )
            case "dates" if term is not None:
                return "dates", (term, chance.choice(HALVES))
            case "parent" if term is not None:
                return "parent", (term, chance.choice([None, *model.terms, *model.terms]))
            case "edit":
                what = chance.choice(["code", "credits", "term"])
                codes = [*(it.code for it in model.courses.values()), "X9"]
                values: dict[str, list[Any]] = {
                    "code": codes,
                    "section": ["", *(it.section for it in model.courses.values())],
                    "credits": [0.0, 1.0, 3.0, 4.5, 0.1, 0.2],
                    "term": [None, *model.terms],
                }
                value = chance.choice(values[what])
                return "edit", (course, what, self.spelt(value) if what == "code" else value)
            case "equate":
                codes = sorted({"X9", *(fold(it.code).upper() for it in model.courses.values())})
                return "equate", ([self.spelt(code) for code in chance.sample(codes, 2)],)
            case "part" if model.sets:
                return "part", (chance.choice(model.sets),)
            case "end_override" if model.overrides:
                return "end_override", chance.choice(model.overrides)
            case "bulk":
                return "bulk", ([self.any_step(ITEMS) for _ in range(chance.randint(2, 4))],)
            case "put":
                return "put", (self.edits(chance.choice(["courses", "students"])),)
            case "teach":
                return "teach", (course, chance.sample(self.instructors, chance.choice([0, 1, 2, 2, 3])))
            case "reserve":
                return "reserve", (course, self.reserved(model.courses[course].capacity))
            case "join":
                return "join", (student, chance.sample(GROUPS, chance.choice([0, 1, 2])))
            case "dismiss":
                return "dismiss", (chance.choice(self.instructors),)
            case "hold":
                return "hold", (student, chance.choice(["enroll", "enroll", "drop"]))
            case "end_hold" if model.holds:
                return "end_hold", chance.choice(model.holds)
            case "override":
                rule = chance.choice(RULES)
                # The caller skips a second override of the same kind: overrides of the model have no ids.
                return "override", (student, course, rule)
            case "require":
                return "require", (course, self.groups(course))
            case "cancel" if chance.random() < 0.3:
                return "cancel", (course,)
            case _:
                return "drop", (student, course)

    def edits(self, what: str) -> list[Step]:
        """Choose edits of several courses or students, each of another one."""
        wanted = {"courses": {"capacity", "waitlist_capacity", "meetings", "edit"}, "students": {"limit", "join"}}[what]
        return [*{step[1][0]: step for step in [self.any_step(wanted) for _ in range(3)]}.values()]

    def targets(self, what: str) -> list[tuple[int, ...]]:
        """Return what can be annulled, whose completion can be removed, what can be reopened, or who can be merged."""
        if what == "reopen":
            return [(id,) for id, it in self.model.courses.items() if it.cancelled]
        if what == "merge":
            # Others remain, who can be chosen for the next steps.
            return [*product(self.model.limits, repeat=2)] if len(self.model.limits) > 2 else [(9_999_999, 9_999_999)]
        past = {"enrolled", "withdrawn"} if what == "annul" else {"completed"}
        return [key for key, state in self.model.states.items() if state.status in past]

    async def serve(self, step: Step, client: Client | None = None) -> object:  # noqa: PLR0915 - a case for each step
        """Make a step in the service and return the outcome in the form of the model."""
        client = client or self.client
        match step:
            case "enroll", (student, wanted, mode, on_full):
                body = {"course_ids": wanted, "mode": mode, "on_full": on_full}
                return results(await call(client, "POST", f"/students/{student}/enroll", body))
            case "swap", (student, out, into, on_full):
                body = {"drop": out, "add": into, "on_full": on_full}
                return results(await call(client, "POST", f"/students/{student}/swap", body))
            case "drop" | "annul" | "remove_completion" as what, (student, course):
                path = {"drop": "", "annul": "?as=dropped&reason=error", "remove_completion": "/completion"}[what]
                return moved(await call(client, "DELETE", f"/students/{student}/courses/{course}{path}"), course)
            case "reopen", (course,):
                return (await call(client, "POST", f"/courses/{course}/reopen")).status
            case "merge", (student, duplicate):
                return await self.merge(client, student, duplicate)
            case "keep", (student, course):
                answer = await call(client, "DELETE", f"/students/{student}/courses/{course}/swap")
                return [(course, "not_enrolled", ())] if answer.status == 404 else answer.body["outcome"]
            case "scale", (scale,):
                grades = [{"grade": grade, "passes": passes} for grade, passes in scale]
                return (await call(client, "PUT", "/grade-scale", {"grades": grades})).status
            case "complete", (student, course, passed, *grade):
                path = f"/students/{student}/courses/{course}/complete"
                answer = await call(client, "POST", path, {"passed": passed, "grade": grade[0] if grade else None})
                return completed(answer, course)
            case "capacity", (course, capacity):
                return (await call(client, "PATCH", f"/courses/{course}", {"capacity": capacity})).status
            case "waitlist_capacity", (course, capacity):
                return (await call(client, "PATCH", f"/courses/{course}", {"waitlist_capacity": capacity})).status
            case "meetings", (course, meetings):
                return (await call(client, "PATCH", f"/courses/{course}", {"meetings": shown(meetings)})).status
            case "limit", (student, limit):
                return (await call(client, "PATCH", f"/students/{student}", {"max_credits": limit})).status
            case "term", (term, what, value):
                names = {"enroll_closed": "enroll_until", "drop_late": "drop_until", "drop_closed": "withdraw_until"}
                if what == "limit":
                    change: dict[str, object] = {"max_credits": 4.0 if value else None}
                else:
                    change = {names[what]: PAST if value else AHEAD}
                return (await call(client, "PATCH", f"/terms/{term}", change)).status
            case "hold", (student, what):
                row = await create(client, f"/students/{student}/holds", {"reason": "fees", "blocks": [what]})
                self.hold_ids.append((row["id"], student, what))
                return 201
            case "end_hold", (student, what):
                id, _, _ = held = next(each for each in self.hold_ids if each[1:] == (student, what))
                self.hold_ids.remove(held)
                return (await call(client, "DELETE", f"/students/{student}/holds/{id}")).status
            case "override", (student, course, rule):
                body = {"course_id": course, "rule": rule, "author": "dean", "reason": "so"}
                row = await create(client, f"/students/{student}/overrides", body)
                self.override_ids[student, course, rule] = row["id"]
                return 201
            case "end_override", (student, course, rule):
                id = self.override_ids[student, course, rule]
                return (await call(client, "DELETE", f"/students/{student}/overrides/{id}")).status
            case "dates", (term, halves):
                return (await call(client, "PATCH", f"/terms/{term}", dates(halves))).status
            case "parent", (term, parent):
                return (await call(client, "PATCH", f"/terms/{term}", {"parent_id": parent})).status
            case "equate", (codes,):
                answer = await call(client, "POST", "/equivalences", {"codes": codes})
                if answer.status == 201:
                    self.set_ids[frozenset(map(fold, codes))] = answer.body["id"]
                return answer.status
            case "part", (codes,):
                return (await call(client, "DELETE", f"/equivalences/{self.set_ids.pop(codes)}")).status
            case "edit", (course, "section", value):
                return (await call(client, "PATCH", f"/courses/{course}", {"section": value or None})).status
            case "edit", (course, what, value):
                name = {"term": "term_id"}.get(what, what)
                return (await call(client, "PATCH", f"/courses/{course}", {name: value})).status
            case "bulk", (items,):
                return await self.bulk(client, items, "/enrollments")
            case "put", (edits,):
                return await self.put(client, edits)
            case "require", (course, groups):
                parted = [(*kind.partition(" ")[::2], codes) for kind, codes in groups]
                body = {
                    "groups": [
                        {
                            "kind": kind.strip("*"),
                            "any_of": codes,
                            "min_grade": grade or None,
                            "in_progress": "*" in kind,
                        }
                        for kind, grade, codes in parted
                    ]
                }
                GRADED.update([course] if any(grade for _, grade, _ in parted) else [])
                return (await call(client, "PUT", f"/courses/{course}/requirements", body)).status
            case "teach", (course, ids):
                wanted = {"instructors": [{"instructor_id": id, "primary": id == ids[0]} for id in ids]}
                return (await call(client, "PUT", f"/courses/{course}/instructors", wanted)).status
            case "reserve", (course, wanted):
                body = {"reservations": [{"group": group, "seats": seats} for group, seats in wanted]}
                return (await call(client, "PUT", f"/courses/{course}/reservations", body)).status
            case "join", (student, groups):
                return (await call(client, "PATCH", f"/students/{student}", {"groups": groups})).status
            case "dismiss", (instructor,):
                return (await call(client, "DELETE", f"/instructors/{instructor}")).status
            case "cancel", (course,):
                return (await call(client, "POST", f"/courses/{course}/cancel")).status
        raise AssertionError(step)

    async def bulk(self, client: Client, items: list[Step], path: str) -> list[object]:
        """Make steps in one call, and return the outcome of each."""
        sent = [{"action": step[0], **dict(zip(ITEMS[step[0]], step[1], strict=False))} for step in items]
        answer = await call(client, "POST", path, {"items": sent})
        assert answer.status == 200, answer
        answers = [Answer(item["status"], answer.headers, item["body"]) for item in answer.body["items"]]
        return [outcome_of(step, each) for step, each in zip(items, answers, strict=True)]

    async def put(self, client: Client, edits: list[Step]) -> list[int]:
        """Make edits of courses or students in one call, and return the status of each."""
        items, path = [], "/courses"
        for what, (id, *values) in edits:
            path = "/students" if what in {"limit", "join"} else "/courses"
            row = await read(client, f"{path}/{id}")
            item = {name: row[name] for name in row.keys() & WRITABLE}
            match what, values:
                case "edit", ("section", value):
                    item["section"] = value or None
                case "edit", (name, value):
                    item[{"term": "term_id"}.get(name, name)] = value
                case "meetings", (meetings,):
                    item["meetings"] = shown(meetings)
                case _, (value,):
                    item[{"limit": "max_credits", "join": "groups"}.get(what, what)] = value
            items.append(item)
        if not items:
            return []
        answer = await call(client, "PUT", path, {"items": items})
        assert answer.status == 200, answer
        return [each["problem"]["status"] if each["outcome"] == "refused" else 200 for each in answer.body["items"]]

    async def merge(self, client: Client, student: int, duplicate: int) -> int:
        """Merge two students, and take note of whose the holds and overrides are then."""
        body = {"student_id": duplicate, "reason": "twice"}
        status = (await call(client, "POST", f"/students/{student}/merge", body)).status
        if status == 200:
            self.hold_ids = [(id, student if who == duplicate else who, what) for id, who, what in self.hold_ids]
            for (who, course, rule), id in list(self.override_ids.items()):
                if who == duplicate:
                    self.override_ids[student, course, rule] = id
        return status

    async def preview(self, step: Step) -> object:
        """Return the outcome of a dry run of an enrollment, a swap or a bulk request in the service."""
        match step:
            case "bulk", (items,):
                return await self.bulk(self.client, items, "/enrollments?dry_run=true")
            case "enroll", (student, wanted, mode, on_full):
                body = {"course_ids": wanted, "mode": mode, "on_full": on_full}
            case _, (student, out, into, on_full):
                body = {"drop": out, "add": into, "on_full": on_full}
        return results(await call(self.client, "POST", f"/students/{student}/{step[0]}?dry_run=true", body))

    async def tables(self, connection: Connection) -> Known:
        """Return the state in the tables, in the form of the model."""
        rows = await connection.fetch(
            "SELECT * FROM student_courses WHERE course_id = ANY($1) ORDER BY joined_position", list(self.model.courses)
        )
        waiting = [row for row in rows if row["status"] == "waitlisted"]
        unused = await connection.fetch(
            "SELECT student_id, course_id, rule FROM overrides WHERE used_at IS NULL AND expires_at IS NULL"
            " AND course_id = ANY($1)",
            list(self.model.courses),
        )
        return Known(
            {id: [row["student_id"] for row in waiting if row["course_id"] == id] for id in self.model.courses},
            {(row["student_id"], row["course_id"]): (row["status"], row["passed"]) for row in rows},
            {(row["student_id"], row["course_id"]): json.loads(row["swap_drops"] or "[]") for row in waiting},
            {tuple(row) for row in unused},
            await self.teachers(connection),
            {(row["student_id"], row["course_id"]): row["reserved_group"] for row in rows if row["reserved_group"]},
            {(row["student_id"], row["course_id"]) for row in rows if row["requirement_lost"]},
        )

    async def teachers(self, connection: Connection) -> dict[int, list[int]]:
        """Return the instructors of the courses that have some, the primary one first."""
        rows = await connection.fetch(
            "SELECT course_id, instructor_id FROM course_instructors WHERE teaches AND course_id = ANY($1)"
            " ORDER BY course_id, is_primary DESC, instructor_id",
            list(self.model.courses),
        )
        found: dict[int, list[int]] = {}
        for course, instructor in rows:
            found.setdefault(course, []).append(instructor)
        return found

    async def waitlists_and_states(self) -> tuple[dict[int, list[int]], dict[tuple[int, int], str]]:
        """Return the state that the service shows, in the form of the model."""
        waitlists, states = {}, {}
        for course in self.model.courses:
            waitlist = await read(self.client, f"/courses/{course}/students?status=waitlisted")
            assert [item["position"] for item in waitlist["items"]] == list(range(1, len(waitlist["items"]) + 1))
            waitlists[course] = [item["student_id"] for item in waitlist["items"]]
        for student in self.model.limits:
            for status in ("enrolled", "waitlisted", "completed", "dropped", "withdrawn"):
                found = await read(self.client, f"/students/{student}/courses?status={status}")
                states.update({(student, item["course_id"]): status for item in found["items"]})
        return waitlists, states


HALVES = [frozenset({1}), frozenset({1, 2}), frozenset({2, 3}), frozenset({3}), frozenset({1, 2, 3})]


def dates(halves: frozenset[int]) -> dict[str, str]:
    """Return the first and the last day of a term."""
    return {"starts_on": PARTS[min(halves)][0], "ends_on": PARTS[max(halves)][1]}


def shown(meetings: list[Meeting]) -> list[dict[str, object]]:
    return [
        {"day": day, "start": f"{start:02}:00", "end": f"{end % 24:02}:00"}
        | {"from": begin, "until": until, "every_weeks": weeks}
        for day, start, end, begin, until, weeks in meetings
    ]


def plain(errors: list[dict[str, Any]], course: int | None = None) -> list[Any]:
    """Return refusals in the form of the model, without deadlines."""
    found = []
    for error in errors:
        params = {k: tuple(v) if isinstance(v, list) else v for k, v in error.items() if k not in HIDDEN}
        found.append((error.get("course_id", course), error["code"], tuple(sorted(params.items()))))
    return sorted(found, key=repr)


HIDDEN = {"code", "pointer", "detail", "course_id", "opens_at", "closed_at"}


def reasons(answer: Answer) -> list[Any]:
    return plain(answer.body["errors"])


def moved(answer: Answer, course: int) -> object:
    """Return the outcome of a drop or of the removal of a completion."""
    if answer.status in {404, 409} and not answer.body["errors"]:
        return [(course, answer.body["code"], ())]
    return reasons(answer) if answer.status == 409 else answer.body["outcome"]


def completed(answer: Answer, course: int) -> object:
    """Return the outcome of a completion."""
    if answer.status == 422:
        return [(course, answer.body["code"], ())]
    return [(course, "not_enrolled", ())] if answer.status == 409 else answer.body["outcome"]


def outcome_of(step: Step, answer: Answer) -> object:
    """Return the outcome of a step that a bulk request can have as an item."""
    match step:
        case "drop", (_, course):
            return moved(answer, course)
        case "complete", (_, course, *_):
            return completed(answer, course)
        case _:
            return results(answer)


def results(answer: Answer) -> object:
    if answer.status in {409, 422}:
        return reasons(answer)
    found = []
    for result in answer.body["results"]:
        course, outcome = result["course_id"], result["outcome"]
        more: Any = result.get("position", result.get("status"))
        if outcome == "unchanged":
            more = (result["status"], result["position"])
        found.append((course, outcome, plain(result["errors"], course) if outcome == "refused" else more))
    dry = "dry_run" in answer.body
    assert answer.status == (
        201 if not dry and {"enrolled", "waitlisted"} & {outcome for _, outcome, _ in found} else 200
    )
    return found


def modelled(model: Model, step: Step) -> object:
    """Make a step in the model and return the outcome."""
    try:
        match step:
            case "enroll", arguments:
                outcome: object = model.enroll(*arguments)
                model.promote()
                return outcome
            case "swap", arguments:
                return model.swap(*arguments)
            case "drop", arguments:
                return model.drop(*arguments)
            case "keep", arguments:
                return model.keep(*arguments)
            case "complete", arguments:
                return model.complete(*arguments)
            case "annul" | "remove_completion" | "reopen" | "merge" as what, arguments:
                return getattr(model, what)(*arguments)
            case "cancel", (course,):
                model.cancel(course)
                return 200
            case "capacity", arguments:
                return model.resize(*arguments)
            case "reserve", arguments:
                return model.reserve(*arguments)
            case "join", (student, groups):
                model.members[student] = frozenset(groups)
            case "waitlist_capacity", (course, capacity):
                model.courses[course].waitlist_capacity = capacity
            case "meetings", (course, meetings):
                return model.meet(course, meetings)
            case "limit", (student, limit):
                model.limits[student] = limit
            case "term", (term, what, value):
                if what == "limit":
                    model.terms[term].limit = 4.0 if value else None
                elif what in {"drop_late", "drop_closed"} and out_of_order(model.terms[term], what, value):
                    return 422
                else:
                    setattr(model.terms[term], what, value)
            case "hold", (student, what):
                model.holds.append((student, what))
                return 201
            case "end_hold", held:
                model.holds.remove(held)
            case "bulk" | "put", (steps,):
                return [modelled(model, each) for each in steps]
            case "edit", arguments:
                return model.edit(*arguments)
            case "equate", (codes,):
                return model.equate(codes)
            case "part", (codes,):
                return model.part(codes)
            case "dates", (term, halves):
                return model.shift(term, halves)
            case "parent", (term, parent):
                return model.join(term, parent)
            case "end_override", override:
                model.overrides.remove(override)
            case "override", arguments:
                return model.grant(*arguments)
            case "require", arguments:
                return model.require(*arguments)
            case "scale", arguments:
                return model.rescale(*arguments)
            case "teach", arguments:
                return model.teach(*arguments)
            case "dismiss", (instructor,):
                return model.dismiss(instructor)
    except Refused as refused:
        model.promote()
        return refused.reasons
    model.promote()
    return 200


def out_of_order(term: Term, what: str, value: bool) -> bool:
    """Return whether withdraw_until would come before drop_until."""
    late, closed = (value, term.drop_closed) if what == "drop_late" else (term.drop_late, value)
    return closed and not late


def known(model: Model) -> Known:
    return Known(
        {course: model.waitlist(course) for course in model.courses},
        {key: (state.status, state.passed) for key, state in model.states.items()},
        {key: state.drops for key, state in model.states.items() if state.status == "waitlisted"},
        set(model.overrides),
        {course: ids for course, ids in model.teachers.items() if ids},
        {key: state.group for key, state in model.states.items() if state.group and state.status in SEATED},
        set(model.lost),
    )


async def assert_whole(connection: Connection) -> None:
    for invariant, find in INVARIANTS.items():
        assert list(await find(connection)) == [], invariant


def histories(count: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Run a test with seeds chosen by Hypothesis, the same ones in every run."""

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        bounded = hypothesis.settings(
            max_examples=count,
            derandomize=True,
            database=None,
            deadline=None,
            # The histories of a test share a database: each uses students and courses of its own.
            suppress_health_check=list(HealthCheck),
        )
        # Single choices made by Hypothesis favor the first item of each list, so few histories would get far.
        return bounded(hypothesis.given(chance=strategies.randoms(use_true_random=True))(test))

    return decorate


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pages so small that waitlists of a few students have several, as real ones of hundreds do."""
    monkeypatch.setattr(load, "PAGE_STUDENTS", 3)
    monkeypatch.setattr(load, "MAX_PAGE_STUDENTS", 6)


@histories(HISTORIES)
async def test_random_histories_match_the_model(client: Client, connection: Connection, chance: random.Random) -> None:
    campus = Campus(client, chance)
    await campus.build()
    history = []
    rush = campus.rush()
    for number in range(STEPS):
        step = rush[number] if number < len(rush) else campus.step()
        if step[0] == "override" and step[1] in campus.model.overrides:
            continue
        history.append(step)
        expected = modelled(campus.model, step)
        if step[0] in {"enroll", "swap", "bulk"}:
            assert (step, await campus.preview(step)) == (step, expected), history
        assert (step, await campus.serve(step)) == (step, expected), history
        assert await campus.tables(connection) == known(campus.model), history
    assert await campus.waitlists_and_states() == known(campus.model).seen(), history
    assert await repeated_skips(connection) == [], history
    await assert_whole(connection)


@histories(LONG_HISTORIES)
async def test_long_waitlists_match_the_model(client: Client, connection: Connection, chance: random.Random) -> None:
    campus = Campus(client, chance, students=60)
    await campus.build()
    history = campus.rush()
    for step in history:
        assert (step, await campus.serve(step)) == (step, modelled(campus.model, step))
    for _ in range(STEPS):
        step = campus.step()
        if step[0] == "override" and step[1] in campus.model.overrides:
            continue
        history.append(step)
        expected = modelled(campus.model, step)
        assert (step, await campus.serve(step)) == (step, expected), history
        assert await campus.tables(connection) == known(campus.model), history
    assert await repeated_skips(connection) == [], history
    await assert_whole(connection)


async def repeated_skips(connection: Connection) -> list[int]:
    """Return the positions of skip events with the same reasons as the skip before."""
    rows = await connection.fetch("""
        SELECT position
        FROM (
            SELECT
                position,
                type,
                after::text AS reasons,
                lag(type) OVER history AS type_before,
                lag(after::text) OVER history AS reasons_before
            FROM events
            WHERE type IN ('enrollment.skipped', 'enrollment.waitlisted')
            WINDOW history AS (PARTITION BY student_id, course_id ORDER BY position)
        ) AS skips
        WHERE type = 'enrollment.skipped'
            AND type_before = type
            AND reasons_before = reasons
    """)
    return [row["position"] for row in rows]


@histories(CONCURRENT_HISTORIES)
async def test_concurrent_changes_have_the_result_of_some_order(
    client: Client, settings: Settings, connection: Connection, chance: random.Random
) -> None:
    async with TestClient(TestServer(create_app(settings))) as twin:
        await until_ready(twin)
        campus = Campus(client, chance)
        await campus.build()
        for step in campus.rush():
            assert await campus.serve(step) == modelled(campus.model, step)
        at_once: list[Step] = []
        while len(at_once) < 4:
            step = campus.step()
            # Every other step becomes a drop, so the loop ends in a small history too.
            at_once.append(step if step[0] in AT_ONCE else ("drop", campus.pair()))

        outcomes = await asyncio.gather(
            *(campus.serve(step, at) for step, at in zip(at_once, (client, twin) * 2, strict=True))
        )

        ended = await campus.waitlists_and_states()
    orders = []
    for order in permutations(range(4)):
        model = deepcopy(campus.model)
        expected = {index: modelled(model, at_once[index]) for index in order}
        orders.append(([expected[index] for index in range(4)], known(model).seen()))
    assert (outcomes, ended) in orders, at_once
    await assert_whole(connection)
