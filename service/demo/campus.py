"""Campuses for the demo: seeded generators of terms, courses, students and their requests."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Literal, TypeAlias

from service.registrar.application import Group
from service.registrar.courses import CourseFields
from service.registrar.students import StudentFields
from service.registrar.terms import TermFields

Size: TypeAlias = Literal["small", "large"]
SEED = 20_260_901
"""The seed is fixed, so that everyone sees the same campus."""

GIVEN_NAMES = (
    "Aaliyah Adam Aiko Amara Amir Ana Anders Anika Ben Bruno Camila Carlos Chen Chloe Daniel Deepa Diego Elena Emeka "
    "Emma Farah Felix Fatima Grace Hana Hugo Ibrahim Ines Ivan Jack Jamal Joao Julia Kaito Kofi Lara Leon Lin Lucia "
    "Malik Maria Mateo Maya Mei Mia Mohammed Nadia Nia Noah Olga Omar Priya Rafael Rosa Samir Sara Sofia Tariq Tom Yara"
).split()
FAMILY_NAMES = (
    "Abbas Adeyemi Almeida Andersson Baker Bauer Becker Bianchi Castro Chowdhury Cohen Costa Diaz Dubois Eriksen "
    "Fernandez Fischer Garcia Gupta Haddad Hansen Hernandez Ito Ivanova Johnson Kaya Kim Kowalski Kumar Larsen Lee "
    "Lopez Martin Mbeki Mensah Moreau Murphy Nakamura Nguyen Novak Okafor Patel Petrov Rahman Reyes Rossi Santos "
    "Schmidt Silva Singh Smith Suzuki Tanaka Torres Wang Weber Williams Wong Yilmaz Zhang"
).split()
CATALOGUE = {
    "ART110": ("Drawing from Life", 3, 18),
    "ART230": ("Photography", 3, 15),
    "BIO101": ("Introduction to Biology", 4, 90),
    "BIO220": ("Genetics", 4, 40),
    "BIO221": ("Genetics Laboratory", 1.5, 16),
    "CHEM101": ("General Chemistry", 4, 90),
    "CHEM210": ("Organic Chemistry", 4, 45),
    "CS101": ("Introduction to Programming", 4, 60),
    "CS201": ("Data Structures", 4, 45),
    "CS310": ("Operating Systems", 4, 30),
    "CS340": ("Databases", 3, 30),
    "ECON101": ("Principles of Economics", 3, None),
    "ECON210": ("Microeconomics", 3, 50),
    "ENG101": ("Academic Writing", 2, 25),
    "ENG220": ("The Modern Novel", 3, 25),
    "FREN101": ("French for Beginners", 3, 20),
    "GEOG105": ("Maps and Places", 3, 40),
    "HIST101": ("World History", 3, None),
    "HIST240": ("History of Science", 3, 35),
    "LING101": ("Language and Mind", 3, 40),
    "MATH101": ("Calculus I", 4, 60),
    "MATH102": ("Calculus II", 4, 60),
    "MATH210": ("Linear Algebra", 4, 45),
    "MATH330": ("Probability", 3, 30),
    "MUS105": ("University Choir", 0.5, 80),
    "PHIL101": ("Introduction to Philosophy", 3, 50),
    "PHIL210": ("Logic", 3, 20),
    "PHYS101": ("Mechanics", 4, 60),
    "PSY101": ("Introduction to Psychology", 3, 70),
    "STAT201": ("Statistics", 3, 0),
}
PREREQUISITES = {
    "BIO220": "BIO101",
    "CHEM210": "CHEM101",
    "CS201": "CS101",
    "CS310": "CS201",
    "MATH102": "MATH101",
    "MATH330": "MATH102",
}
DEPARTMENTS = (
    "ACCT AERO ANTH ARAB ARCH ART ASTR BIO BUS CHEM CHIN CIVE CLAS COMM CS DANC ECON EDUC ELEC ENG "
    "FILM FIN FREN GEOG GEOL GERM HIST JAPN LAW LING MATH MECH MUS NURS PHIL PHYS POLS PSY SOC STAT"
).split()
SEATS_BY_LEVEL = {1: (150, 400), 2: (60, 120), 3: (30, 60), 4: (12, 30)}
"""By the level of a course, the smallest and the largest number of its seats."""
COURSES_PER_LEVEL = 5
DAY_PATTERNS = (("mon", "wed", "fri"), ("tue", "thu"))
SEMESTERS = {"S": ("Spring", (1, 12), (5, 15)), "F": ("Fall", (9, 1), (12, 18))}
"""The name of each semester, and the month and day of its first and its last day."""


def last_and_next_term(today: date) -> tuple[TermFields, TermFields]:
    """Return the last term that has ended and the next one that has not begun, so that a demo is never out of date."""
    terms = [_semester(year, letter) for year in (today.year - 1, today.year, today.year + 1) for letter in SEMESTERS]
    ended = [term for term in terms if term["ends_on"] < today]
    ahead = [term for term in terms if term["starts_on"] > today]
    return ended[-1], ahead[0]


def _semester(year: int, letter: str) -> TermFields:
    name, first, last = SEMESTERS[letter]
    return {
        "code": f"{year}{letter}",
        "name": f"{name} {year}",
        "starts_on": date(year, *first),
        "ends_on": date(year, *last),
        "enroll_from": None,
        "enroll_until": None,
        "drop_until": None,
        "withdraw_until": None,
        "max_credits": 18.0,
        "parent_id": None,
    }


@dataclass(frozen=True, slots=True)
class PlannedCourse:
    """A course to create, whose term is not created yet."""

    fields: CourseFields
    groups: tuple[Group, ...] = ()

    @property
    def code(self) -> str:
        """The code, which is unique among the courses of the term."""
        return self.fields["code"]


@dataclass(frozen=True, slots=True)
class PlannedStudent:
    """A student to create, with the codes passed last term, the codes wished for next term, and a second thought."""

    fields: StudentFields
    passed: tuple[str, ...]
    wishes: tuple[str, ...]
    on_hold: bool
    second_thought: Literal["none", "drop", "swap"]
    swap_for: str


@dataclass(frozen=True, slots=True)
class Campus:
    """Everything that a demo creates, in order: the courses of the last and of the next term, and the students."""

    last: list[PlannedCourse]
    next: list[PlannedCourse]
    students: list[PlannedStudent] = field(default_factory=list)


def plan(size: Size) -> Campus:
    """Plan a campus: 200 students and 30 courses, or 20,000 and 800."""
    chance = random.Random(SEED)  # noqa: S311 - a campus, not a key
    if size == "small":
        return _plan_small(chance)
    next_ = list(_courses_of_departments(chance))
    last = [_course(f"{name}101", f"{name.title()} 101", 3, None) for name in DEPARTMENTS]
    campus = Campus(last, next_)
    for number in range(1, 20_001):
        campus.students.append(_student_of_departments(chance, number))
    return campus


def _plan_small(chance: random.Random) -> Campus:
    next_ = []
    for code, (title, credits, capacity) in CATALOGUE.items():
        groups = (Group("pre", (PREREQUISITES[code],)),) if code in PREREQUISITES else ()
        waitlist_capacity = chance.choice([None, 0, 5, 10])
        next_.append(
            _course(
                code,
                title,
                credits,
                capacity,
                waitlist_capacity=waitlist_capacity,
                meetings=_meetings(chance),
                groups=groups,
            )
        )
    last = [_course(code, CATALOGUE[code][0], CATALOGUE[code][1], None) for code in sorted(set(PREREQUISITES.values()))]
    campus = Campus(last, next_)
    for number in range(1, 201):
        passed = tuple(chance.sample([course.code for course in last], chance.randint(0, 3)))
        open_to = [course.code for course in next_ if course.code not in passed]
        campus.students.append(_student(chance, number, passed, chance.sample(open_to, chance.randint(5, 7)), open_to))
    return campus


def _courses_of_departments(chance: random.Random) -> Iterator[PlannedCourse]:
    for name in DEPARTMENTS:
        for level, (fewest, most) in SEATS_BY_LEVEL.items():
            for number in range(1, COURSES_PER_LEVEL + 1):
                capacity = chance.randint(fewest, most)
                groups = (Group("pre", (f"{name}101",)),) if level > 1 else ()
                yield _course(
                    f"{name}{level}0{number}",
                    f"{name.title()} {level}0{number}",
                    chance.choice([2, 3, 3, 3, 4, 1.5]),
                    capacity,
                    waitlist_capacity=chance.choice([None, 0, capacity // 5]),
                    meetings=_meetings(chance),
                    groups=groups,
                )


def _student_of_departments(chance: random.Random, number: int) -> PlannedStudent:
    """Plan a student of the first to fourth year who chooses courses of a home department, and some of two others."""
    year = chance.choice([1, 2, 3, 4])
    home, second, third = chance.sample(DEPARTMENTS, 3)
    passed = () if year == 1 else (f"{home}101", f"{second}101")
    codes = [
        f"{name}{level}0{course}"
        for name in (home, second, third)
        for level in range(1, (year if name == home else min(year, 2)) + 1)
        for course in range(1, COURSES_PER_LEVEL + 1)
    ]
    open_to = [code for code in codes if code not in passed]
    return _student(chance, number, passed, chance.sample(open_to, chance.randint(4, 6)), open_to)


def _course(
    code: str,
    title: str,
    credits: float,
    capacity: int | None,
    *,
    waitlist_capacity: int | None = None,
    meetings: str = "[]",
    groups: tuple[Group, ...] = (),
) -> PlannedCourse:
    fields: CourseFields = {
        "external_id": None,
        "term_id": None,
        "code": code,
        "section": None,
        "title": title,
        "credits": float(credits),
        "capacity": capacity,
        "waitlist_capacity": waitlist_capacity,
        "meetings": meetings,
    }
    return PlannedCourse(fields, groups)


def _meetings(chance: random.Random) -> str:
    """Return meetings on three days a week for 50 minutes, or on two days for 75 minutes."""
    days, hour = chance.choice(DAY_PATTERNS), chance.randint(8, 17)
    end = f"{hour:02}:50" if len(days) == 3 else f"{hour + 1:02}:15"
    return json.dumps([{"day": day, "start": f"{hour:02}:00", "end": end} for day in days])


def _student(
    chance: random.Random, number: int, passed: tuple[str, ...], wishes: list[str], open_to: list[str]
) -> PlannedStudent:
    given_name, family_name = chance.choice(GIVEN_NAMES), chance.choice(FAMILY_NAMES)
    fields: StudentFields = {
        "external_id": f"demo-{number:05}",
        "sourced_id": None,
        "given_name": given_name,
        "family_name": family_name,
        "preferred_name": None,
        "email": f"{given_name}.{family_name}.{number}@campus.example".lower(),
        "max_credits": chance.choice([None] * 19 + [21.0]),
        "groups": f"year:{1 + number % 4}",
    }
    return PlannedStudent(
        fields=fields,
        passed=passed,
        wishes=tuple(wishes),
        on_hold=chance.random() < 0.02,
        second_thought=chance.choices(["none", "drop", "swap"], [70, 20, 10])[0],  # type: ignore[arg-type]
        swap_for=chance.choice([code for code in open_to if code not in wishes]),
    )
