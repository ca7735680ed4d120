"""``python -m service demo``: a small believable campus in an empty database, through the registrar like any change."""

import random
import sys
from itertools import product

from service.database import Database
from service.registrar import Registrar
from service.registrar.changes import Create, Enroll, Origin
from service.settings import Settings
from sql.courses import Course, list_courses
from sql.students import Student, list_students

STUDENTS = 200
SEED = 20_260_901
"""The same campus every time, so that two people see the same."""
ORIGIN = Origin(request_id="demo", actor="demo")

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


async def fill(settings: Settings) -> int:
    """Create students, courses and enrollments; 1 and nothing done where there are any already."""
    database = Database(settings)
    await database.open()
    try:
        async with database.reading() as connection:
            if await list_students(connection, 0, 1) or await list_courses(connection, 0, 1):
                print("error: the demo fills an empty database only, and this one holds something", file=sys.stderr)
                return 1
        enrolled, refused = await _fill(Registrar(database, write_timeout=settings.write_timeout))
    finally:
        await database.close()
    print(f"{STUDENTS} students, {len(CATALOGUE)} courses, {enrolled} enrollments; {refused} found a course full")
    return 0


async def _fill(registrar: Registrar) -> tuple[int, int]:
    chance = random.Random(SEED)  # noqa: S311 - a campus, not a key
    names = chance.sample(list(product(GIVEN_NAMES, FAMILY_NAMES)), STUDENTS)
    courses = [
        await registrar.submit(
            Create(
                origin=ORIGIN,
                thing=Course,
                values={
                    "external_id": f"demo-{code}",
                    "code": code,
                    "title": title,
                    "credits": float(credits),
                    "term_id": None,
                    "capacity": capacity,
                    "waitlist_capacity": None,
                    "meetings": "[]",
                },
            )
        )
        for code, (title, credits, capacity) in CATALOGUE.items()
    ]
    outcomes: list[str] = []
    for number, (given_name, family_name) in enumerate(names, start=1):
        student = await registrar.submit(
            Create(
                origin=ORIGIN,
                thing=Student,
                values={
                    "external_id": f"demo-{number:04}",
                    "given_name": given_name,
                    "family_name": family_name,
                    "email": f"{given_name}.{family_name}@campus.example".lower(),
                    "max_credits": None,
                },
            )
        )
        wishes = tuple(course.id for course in chance.sample(courses, chance.randint(3, 6)))
        results = await registrar.submit(
            Enroll(origin=ORIGIN, student_id=student.id, course_ids=wishes, mode="partial")
        )
        outcomes += [result.outcome for result in results]
    return outcomes.count("enrolled"), outcomes.count("refused")
