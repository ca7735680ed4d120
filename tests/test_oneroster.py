"""OneRoster over HTTP: what other systems read, and what they are told when they ask for something else."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer
from jsonschema import Draft202012Validator
from yarl import URL

from service.app import BRING_UP, create_app
from service.oneroster.operations import OPERATIONS
from service.settings import Settings
from tests.campus import Answer, call
from tests.conftest import Client
from tests.roster import V1P1, V1P2, Roster, ids, new_roster, official_document, show

pytestmark = pytest.mark.asyncio(loop_scope="module")

YEAR = re.compile(r"[0-9]{4}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(shared_settings: Settings) -> AsyncIterator[tuple[Client, Roster]]:
    """Yield a client of a service with a roster, which these tests only read."""
    app = create_app(shared_settings)
    async with TestClient(TestServer(app)) as client:
        await app[BRING_UP]
        yield client, await new_roster(client)


def shown(number: int) -> str:
    return f"{number:010}"


def paths_of(roster: Roster) -> dict[str, str]:
    """Return a path with ids that exist for each operation."""
    part = f"term-{shown(roster.part)}"
    singles = {
        "academicSessions": part,
        "classes": f"class-{shown(roster.first)}",
        "courses": f"course-{shown(roster.first)}",
        "enrollments": f"enrollment-{shown(roster.students[0])}-{shown(roster.first)}-student",
        "gradingPeriods": f"gp-{part}",
        "orgs": "institution",
        "schools": "institution",
        "students": "student-1",
        "teachers": "teacher-1",
        "terms": part,
        "users": "teacher-2",
    }
    parents = {
        "class": singles["classes"],
        "course": singles["courses"],
        "school": "institution",
        "student": "student-1",
        "teacher": "teacher-1",
        "user": "student-1",
        "term": part,
    }
    names = {f"{name}SourcedId": value for name, value in parents.items()}
    return {
        operation.id: operation.path.format(sourcedId=singles.get(operation.path.split("/")[1]), **names)
        for operation in OPERATIONS
    }


async def test_every_answer_matches_the_official_document(served: tuple[Client, Roster]) -> None:
    client, roster = served
    official = json.loads(official_document().read_text())
    paths = paths_of(roster)

    def check(schema: dict[str, Any], body: object) -> None:
        whole = {**schema, "components": official["components"]}
        Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(body)

    theirs = {item["get"]["operationId"]: (path, item["get"]) for path, item in official["paths"].items()}
    assert {operation.id for operation in OPERATIONS} == {name for name in theirs if "Demographics" not in name}
    for operation in OPERATIONS:
        path, described = theirs[operation.id]
        assert path == operation.path
        for query in ("", "?limit=1&offset=1&sort=sourcedId&orderBy=desc", "?fields=sourcedId"):
            answer = await call(client, "GET", f"{V1P2}{paths[operation.id]}{query}")
            assert answer.status == 200, answer
            schema = described["responses"]["200"]["content"]["application/json"]["schema"]
            if "fields" not in query:
                check(schema, answer.body)
            assert answer.headers["X-Total-Count"].isdigit()
            assert query or ids_or_one(answer.body), operation.id
        if "{" in operation.path:
            answer = await call(client, "GET", f"{V1P2}{re.sub('[{][a-zA-Z]+[}]', 'nobody', operation.path)}")
            assert (answer.status, minor(answer)) == (404, "unknownobject"), operation.id
            schema = official["components"]["schemas"]["imsx_StatusInfoDType"]
            check(schema, answer.body)


def ids_or_one(body: dict[str, Any]) -> object:
    [value] = body.values()
    return value


def minor(answer: Answer) -> str:
    """Return the minor code of an error of OneRoster, whose form this asserts."""
    assert answer.headers["Content-Type"].startswith("application/json"), answer
    names = {"imsx_codeMajor", "imsx_severity", "imsx_description", "imsx_CodeMinor"}
    assert answer.body.keys() - {"imsx_messageRefIdentifier"} == names
    assert (answer.body["imsx_codeMajor"], answer.body["imsx_severity"]) == ("failure", "error")
    [field] = answer.body["imsx_CodeMinor"]["imsx_codeMinorField"]
    assert field["imsx_codeMinorFieldName"] == "TargetEndSystem"
    code: str = field["imsx_codeMinorFieldValue"]
    return code


async def test_the_objects_are_those_of_the_institution(served: tuple[Client, Roster]) -> None:
    client, roster = served
    base = f"{client.make_url('/')}"[:-1] + V1P2

    def reference(path: str, type: str, sourced_id: str) -> dict[str, str]:
        return {"href": f"{base}/{path}/{sourced_id}", "sourcedId": sourced_id, "type": type}

    school = reference("orgs", "org", "institution")
    first = f"class-{shown(roster.first)}"

    def without_time(found: dict[str, Any]) -> dict[str, Any]:
        assert re.fullmatch(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{3}Z", found.pop("dateLastModified"))
        return found

    users = {each["sourcedId"]: without_time(each) for each in (await show(client, f"{V1P2}/users"))["users"]}
    assert (
        [*users]
        == sorted(users)
        == ["student-1", "student-2", "student-3", "student-4", "student-5", "teacher-1", "teacher-2"]
    )
    assert users["student-1"] == {
        "sourcedId": "student-1",
        "status": "active",
        "username": "S-1",
        "enabledUser": "true",
        "givenName": "Ada",
        "familyName": "Number1",
        "preferredFirstName": "Countess",
        "identifier": "S-1",
        "email": "s1@campus.example",
        "roles": [{"roleType": "primary", "role": "student", "org": school}],
        "primaryOrg": school,
    }
    # Half a name, and no other id.
    assert users["student-2"].items() >= {"givenName": "", "username": "student-2", "identifier": "student-2"}.items()
    assert "email" not in users["student-2"]
    # A deleted student.
    assert users["student-5"].items() >= {"status": "tobedeleted", "enabledUser": "false", "familyName": ""}.items()
    assert users["teacher-1"]["roles"][0]["role"] == "teacher"
    old = (await show(client, f"{V1P1}/users/student-1"))["user"]
    assert (old["role"], [each["sourcedId"] for each in old["orgs"]]) == ("student", ["institution"])
    assert not old.keys() & {"roles", "primaryOrg", "preferredFirstName"}
    assert old["orgs"][0]["href"].endswith(f"{V1P1}/orgs/institution")

    classes = {each["sourcedId"]: without_time(each) for each in (await show(client, f"{V1P2}/classes"))["classes"]}
    assert classes[first] == {
        "sourcedId": first,
        "status": "active",
        "title": "Computing",
        "classCode": "CS1-A",
        "classType": "scheduled",
        "course": reference("courses", "course", f"course-{shown(roster.first)}"),
        "school": school,
        "terms": [reference("academicSessions", "academicSession", f"term-{shown(roster.part)}")],
    }
    second = classes[f"class-{shown(roster.second)}"]
    assert second["course"] == classes[first]["course"]
    assert classes[f"class-{shown(roster.free)}"]["terms"][0]["sourcedId"] == "no-term"
    assert classes[f"class-{shown(roster.cancelled)}"]["status"] == "tobedeleted"
    assert classes[f"class-{shown(roster.deleted_course)}"]["status"] == "tobedeleted"
    courses = {each["sourcedId"]: each for each in (await show(client, f"{V1P2}/courses"))["courses"]}
    gone = courses[f"course-{shown(roster.deleted_course)}"]
    assert {**courses}.keys() == {
        f"course-{shown(id)}" for id in (roster.first, roster.free, roster.cancelled, roster.deleted_course)
    }
    assert gone["status"] == "tobedeleted"
    assert courses[f"course-{shown(roster.free)}"]["title"] == 'Bücher & "Quotes"'


async def test_sessions_and_enrollments_are_those_of_the_institution(served: tuple[Client, Roster]) -> None:
    client, roster = served
    sessions = (await show(client, f"{V1P2}/academicSessions"))["academicSessions"]
    assert [each["type"] for each in sessions] == ["gradingPeriod"] * 2 + ["schoolYear"] + ["term"] * 2
    assert all(YEAR.fullmatch(each["schoolYear"]) for each in sessions)
    term, part = sessions[3:]
    assert (term["startDate"], term["endDate"], term["schoolYear"]) == ("2036-09-01", "2036-12-19", "2036")
    assert [each["sourcedId"] for each in term["children"]] == [part["sourcedId"], f"gp-{term['sourcedId']}"]
    assert part["parent"]["sourcedId"] == term["sourcedId"]
    assert "parent" not in term

    found = (await show(client, f"{V1P2}/enrollments"))["enrollments"]
    assert [each["sourcedId"] for each in found] == sorted(each["sourcedId"] for each in found)
    ada, bob, cyd, _ = roster.students
    by_id = {each["sourcedId"]: each for each in found}
    # The waitlisted student has no enrollment.
    assert by_id.keys() == {
        f"enrollment-{shown(ada)}-{shown(roster.first)}-student",
        f"enrollment-{shown(ada)}-{shown(roster.free)}-student",
        f"enrollment-{shown(bob)}-{shown(roster.first)}-student",
        f"enrollment-{shown(cyd)}-{shown(roster.second)}-student",
        f"enrollment-{shown(roster.instructor)}-{shown(roster.first)}-teacher",
        f"enrollment-{shown(roster.former)}-{shown(roster.first)}-teacher",
    }
    enrolled, _, completed = (each for each in found if each["role"] == "student" and each["status"] == "active")
    assert "endDate" not in enrolled
    assert completed["endDate"] > completed["beginDate"]
    dropped = by_id[f"enrollment-{shown(cyd)}-{shown(roster.second)}-student"]
    assert (dropped["status"], dropped["endDate"] > dropped["beginDate"]) == ("tobedeleted", True)
    teaches = by_id[f"enrollment-{shown(roster.instructor)}-{shown(roster.first)}-teacher"]
    assert (teaches["primary"], teaches["status"], teaches["user"]["sourcedId"]) == ("true", "active", "teacher-1")
    former = by_id[f"enrollment-{shown(roster.former)}-{shown(roster.first)}-teacher"]
    assert (former["primary"], former["status"]) == ("false", "tobedeleted")


async def test_a_nested_list_has_what_belongs_to_its_parent(served: tuple[Client, Roster]) -> None:
    client, roster = served
    first, free = f"class-{shown(roster.first)}", f"class-{shown(roster.free)}"
    second, cancelled = f"class-{shown(roster.second)}", f"class-{shown(roster.cancelled)}"
    part, term = f"term-{shown(roster.part)}", f"term-{shown(roster.term)}"
    for path, expected in (
        (f"classes/{first}/students", ["student-1", "student-2"]),
        (f"classes/{second}/students", []),
        (f"classes/{first}/teachers", ["teacher-1"]),
        (f"courses/course-{shown(roster.first)}/classes", [first, second]),
        (f"schools/institution/classes/{first}/teachers", ["teacher-1"]),
        ("schools/institution/teachers", ["teacher-1", "teacher-2"]),
        ("students/student-1/classes", [first, free]),
        ("students/student-3/classes", []),
        ("teachers/teacher-1/classes", [first]),
        ("teachers/teacher-2/classes", []),
        ("users/teacher-1/classes", [first]),
        ("users/student-2/classes", [first]),
        (f"terms/{part}/classes", [first]),
        (f"terms/{term}/classes", [second, cancelled]),
        ("terms/no-term/classes", [free, f"class-{shown(roster.deleted_course)}"]),
        (f"terms/{part}/gradingPeriods", [f"gp-{part}"]),
        ("schools/institution/terms", [term, part]),
    ):
        for base in (V1P2, V1P1):
            assert ids(await show(client, f"{base}/{path}")) == expected, path
    for path in ("students/teacher-1", "students/teacher-1/classes", "terms/no-term", "gradingPeriods/" + part):
        assert (await call(client, "GET", f"{V1P2}/{path}")).status == 404, path
    # In 1.1, what does not exist has an empty list.
    for path in ("classes/nobody/students", "schools/nobody/terms", f"schools/nobody/classes/{first}/students"):
        answer = await call(client, "GET", f"{V1P1}/{path}")
        assert (answer.status, answer.headers["X-Total-Count"]) == (200, "0")
        assert ids(answer.body) == []


FILTERS = [
    # The requests of Microsoft School Data Sync and of Google Classroom, and others that systems send.
    ("users?limit=5000", 7),
    ("users?limit=10000&offset=0", 7),
    ("users?limit=2&offset=6", 1),
    ("users?limit=2&offset=7", 0),
    ("users?limit%20=1", 7),
    ("users?access_level=7&limit=3&unknown", 3),
    ("orgs?filter=status='norecords'", 0),
    ("orgs?filter=type='school'", 1),
    ("schools?filter=identifier~'INST'", 1),
    ("users?filter=status='norecords'", 0),
    ("users?filter=status!='norecords'", 7),
    ("users?filter=status%3D%27active%27", 6),
    ("users?filter=status='active'", 6),
    ("users?filter=status='tobedeleted'", 1),
    ("users?filter=status!='active'", 1),
    ("users?filter=role='teacher'", 2),
    ("users?filter=roles.role='student'+AND+status='active'", 4),
    ("users?filter=status='active'%20AND%20roles.org.sourcedId='institution'", 6),
    ("users?filter=roles.org.sourcedId='elsewhere'", 0),
    ("users?filter=roles.org.sourcedId='elsewhere'+OR+role='teacher'", 2),
    ("users?filter=roles.roleType='primary'+OR+role='teacher'", 7),
    ("users?filter=email='S1@campus.example'", 0),
    ("users?filter=email='s1@campus.example'", 1),
    ("users?filter=identifier='S-3'", 1),
    ("users?filter=username='student-2'", 1),
    ("users?filter=username='s1@campus.example'", 0),
    ("users?filter=sourcedId='student-1'", 1),
    ("users?filter=sourcedId='student-1'+OR+sourcedId='student-2'", 2),
    ("users?filter=sourcedId='student-1'+AND+sourcedId='student-2'", 0),
    ("users?filter=sourcedId>='student-4'+AND+sourcedId<'teacher-1'", 2),
    ("users?filter=familyName='O''Neil'", 1),
    ("users?filter=familyName~'neil'", 1),
    ("users?filter=familyName~'.*'", 0),
    ("users?filter=familyName~'" + quote('"\\(') + "'", 0),
    ("users?filter=familyName~''", 7),
    ("users?filter=givenName='A%00'", 0),
    ("users?filter=sms='1'", 0),
    ("users?filter=sms!='1'", 7),
    ("users?filter=metadata.colour='red'", 0),
    ("users?filter=dateLastModified>'2020-01-01'", 7),
    ("users?filter=dateLastModified>'2020-01-01T00:00:00Z'+and+status='active'", 6),
    ("users?filter=dateLastModified>='2020-01-01T00:00:00.000+00:00'", 7),
    ("users?filter=dateLastModified>'2099-01-01T00:00:00.0000000Z'", 0),
    ("users?filter=dateLastModified>'2020-01-01'+AND+dateLastModified<'2021-01-01'", 0),
    ("users?filter=dateLastModified<'2020-01-01'+OR+status='active'", 6),
    ("users?filter=dateLastModified~'20'", 7),
    ("students?filter=status='active'&limit=10000", 4),
    ("teachers?filter=role='student'", 0),
    ("classes?filter=status='active'", 3),
    ("classes?filter=course.sourcedId='course-0000000001'", 2),
    ("classes?filter=course.sourcedId='nothing'", 0),
    ("classes?filter=terms.sourcedId='no-term'", 2),
    ("classes?filter=terms.sourcedId~'term-'+AND+school.sourcedId='institution'", 3),
    ("classes?filter=classCode='CS1-A'", 1),
    ("classes?filter=title~'" + quote("BÜCHER") + "'", 1),
    ("classes?filter=classType='homeroom'", 0),
    ("courses?filter=courseCode='CS1'", 1),
    ("courses?filter=org.type='org'", 4),
    ("enrollments?filter=role='teacher'", 2),
    ("enrollments?filter=role='aide'", 0),
    ("enrollments?filter=primary='true'", 1),
    ("enrollments?filter=status='active'&limit=5000&offset=0", 4),
    ("enrollments?filter=user.sourcedId='student-1'", 2),
    ("enrollments?filter=user.sourcedId='teacher-1'+AND+role='teacher'", 1),
    ("enrollments?filter=user.sourcedId='teacher-1'+AND+role='student'", 0),
    ("enrollments?filter=user.sourcedId~'student-'", 4),
    ("enrollments?filter=class.sourcedId='class-0000000001'", 4),
    ("enrollments?filter=endDate>'2020-01-01T00:00:00Z'", 3),
    ("academicSessions?filter=type='term'", 2),
    ("academicSessions?filter=schoolYear='2036'+AND+type='gradingPeriod'", 2),
    ("academicSessions?filter=parent.sourcedId~'term-'", 3),
    ("academicSessions?filter=children.sourcedId~'gp-'", 2),
    ("terms?filter=endDate>='2036-12-01'", 1),
]


@pytest.mark.parametrize("base", [V1P2, V1P1])
async def test_requests_of_other_systems_find_what_they_ask_for(served: tuple[Client, Roster], base: str) -> None:
    client, _ = served
    only_1p2 = "roles."
    for query, expected in FILTERS:
        if base == V1P1 and only_1p2 in query:
            continue
        answer = await call(client, "GET", f"{base}/{query}")
        assert answer.status == 200, (query, answer)
        assert len(ids(answer.body)) == expected, (query, answer.body)
        if "limit" not in query:
            assert answer.headers["X-Total-Count"] == str(expected), query


REFUSED = [
    ("users?filter=colour='red'", "invalid_filter_field"),
    ("users?filter=roles='student'", "invalid_filter_field"),
    ("users?filter=status=active", "invalid_filter_field"),
    ("users?filter=status='active", "invalid_filter_field"),
    ("users?filter=status='active'+XOR+role='student'", "invalid_filter_field"),
    ("users?filter=status='a'+AND+status='b'+AND+status='c'", "invalid_filter_field"),
    ("users?filter=status='a'+AND", "invalid_filter_field"),
    ("users?filter=dateLastModified>'yesterday'", "invalid_filter_field"),
    ("users?filter=dateLastModified>'9999-12-31T23:59:59.9999Z'", "invalid_filter_field"),
    ("users?fields=colour", "invalid_selection_field"),
    ("users/student-1?fields=sourcedId,colour", "invalid_selection_field"),
    ("users?limit=0", "invaliddata"),
    ("users?limit=10001", "invaliddata"),
    ("users?limit=", "invaliddata"),
    ("users?limit=" + "9" * 5000, "invaliddata"),
    ("users?offset=-1", "invaliddata"),
    ("users?offset=1.5", "invaliddata"),
    ("users?orderBy=up", "invaliddata"),
]


@pytest.mark.parametrize("base", [V1P2, V1P1])
async def test_a_wrong_parameter_is_refused_with_its_minor_code(served: tuple[Client, Roster], base: str) -> None:
    client, _ = served
    for query, expected in REFUSED:
        answer = await call(client, "GET", f"{base}/{query}")
        assert (answer.status, minor(answer)) == (400, expected), (query, answer)
        assert ("imsx_messageRefIdentifier" in answer.body) == (base == V1P1)


async def test_every_error_below_ims_has_the_format_of_1edtech(served: tuple[Client, Roster]) -> None:
    client, _ = served
    for method, path, status, expected in (
        ("GET", "/nothing", 404, "unknownobject"),
        ("GET", "/users/nobody", 404, "unknownobject"),
        ("GET", "/users/%00", 404, "unknownobject"),
        ("GET", "/classes/class-1", 404, "unknownobject"),
        ("GET", "/classes/class-9999999999999999999", 404, "unknownobject"),
        ("GET", "/enrollments/enrollment-0000000001-0000000004-student", 404, "unknownobject"),
        ("GET", "/users/%FF", 422, "invaliddata"),
        ("POST", "/users", 405, "invaliddata"),
        ("DELETE", "/users/student-1", 405, "invaliddata"),
    ):
        answer = await call(client, method, f"{V1P2}{path}")
        assert (answer.status, minor(answer)) == (status, expected), (path, answer)
    assert (await call(client, "POST", f"{V1P2}/users")).headers["Allow"] == "GET, HEAD"
    # Elsewhere the format of errors is that of the service.
    assert (await call(client, "GET", "/nothing")).body["code"] == "no_such_path"


async def test_a_page_has_the_number_of_all_objects_and_links_to_others(served: tuple[Client, Roster]) -> None:
    client, _ = served
    answer = await call(client, "GET", f"{V1P2}/users?filter=status='active'&limit=2&offset=2&fields=sourcedId")
    assert ids(answer.body) == ["student-3", "student-4"]
    assert answer.headers["X-Total-Count"] == "6"
    links = {name: URL(url) for url, name in re.findall(r'<([^>]+)>; rel="(\w+)"', answer.headers["Link"])}
    offsets = {name: url.query["offset"] for name, url in links.items()}
    assert offsets == {"first": "0", "prev": "0", "next": "4", "last": "4"}
    assert links["next"].origin() == client.make_url("/").origin()
    assert ids(await show(client, str(links["next"].relative()))) == ["teacher-1", "teacher-2"]
    one = await call(client, "GET", f"{V1P2}/users/student-1")
    assert one.headers["X-Total-Count"] == "1"
    assert "Link" not in one.headers


async def test_objects_are_sorted_and_reduced_to_the_requested_members(served: tuple[Client, Roster]) -> None:
    client, roster = served
    for query, expected in (
        ("users?sort=familyName&limit=2&offset=1", ["teacher-2", "teacher-1"]),
        ("users?sort=familyName&orderBy=desc&limit=2", ["student-4", "student-3"]),
        ("users?sort=sourcedId&orderBy=desc&limit=1", ["teacher-2"]),
        ("users?sort=nothing&orderBy=desc&limit=1", ["student-1"]),
        ("users?orderBy=desc&limit=1", ["student-1"]),
        ("academicSessions?sort=endDate&limit=2", ["no-term", f"gp-term-{shown(roster.part)}"]),
    ):
        assert ids(await show(client, f"{V1P2}/{query}")) == expected, query
    for query in (
        "fields=sourcedId,role&fields=email",
        "fields=%20sourcedId%20,role,,email",
        "fields=sourcedId&fields=role&fields=email",
    ):
        assert (await show(client, f"{V1P1}/users/student-1?{query}"))["user"].keys() == {"sourcedId", "role", "email"}
    assert (await show(client, f"{V1P2}/users/student-1?fields="))["user"].keys() > {"sourcedId", "roles"}
