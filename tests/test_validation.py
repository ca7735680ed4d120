"""Validation: every error of an invalid request has a code and a sentence of ours."""

import ast
import json
import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Final

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

import service.api
from service.api.fields import FIELD_CODES
from service.errors import Detail
from service.web import health, openapi, page
from service.web.endpoint import endpoints_of
from service.web.validation import refused
from tests.campus import call, course_fields, create, new_course, new_student, places, problem, student_fields
from tests.conftest import Client

INFINITE: Final = float("inf")
JUNK: Final[list[Any]] = [
    *(None, True, False, 0, -1, 0.25, 1.5, 7.0, 1e300, 2**63, 10**400, -(10**400)),
    *(float("nan"), INFINITE, -INFINITE, [], {}, [[]], {"x": 1}, "", " ", "x", "\u200b", "\u3164", "a\nb", "a\u202eb", "x" * 5000),
    *("a@b@c", "a@b..c", "..", "a  b", "ﬀ" * 200, "\u0344" * 50),
    *("2026-02-30", "2026-13-01", "2026-02-30T00:00:00Z", "2026-01-01T24:61:00Z", "2026-01-01T00:00:00"),
    *("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999Z", "24:00", "12:60"),
]  # fmt: skip
FOREIGN: Final = re.compile(r"\b[Ss]h\w+ld\b|Input|valid|\^|\{|\}|_error|Value|[Tt]uple|[Dd]ictionary")
"""Parts of Pydantic's sentences that ours never contain."""


def values(schema: dict[str, Any], root: dict[str, Any]) -> Iterator[Any]:
    """Yield values of which most are wrong in one place of a schema."""
    if "anyOf" in schema:
        schema = schema["anyOf"][0]
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    yield from JUNK
    if "properties" in schema:
        for name, member in schema["properties"].items():
            for value in values(member, root):
                yield {name: value}
    if "items" in schema:
        for value in values(schema["items"], root):
            yield [value]
        yield [1] * (schema.get("maxItems", 0) + 1)


MODULES: Final = [import_module(f"service.api.{module.name}") for module in iter_modules(service.api.__path__)]
ENDPOINTS: Final = [*endpoints_of(*MODULES, health, openapi, page)]
BODIES: Final = {item.handler.__name__: item.body for item in ENDPOINTS if item.body is not None}
PARAMETERS: Final = {
    f"{item.handler.__name__} {model.__name__}": model
    for item in ENDPOINTS
    for model in (item.path_model, item.query_model)
    if model is not None
}


def check(details: Iterable[Detail]) -> set[str]:
    """Assert that errors are ours, and return their codes."""
    for detail in details:
        assert detail.code in FIELD_CODES, detail
        assert not FOREIGN.search(detail.detail), detail
        assert re.fullmatch(r"(?s)\S.*[^.]\.", detail.detail), detail
    return {detail.code for detail in details}


def errors_of_bodies(body: TypeAdapter[Any]) -> set[str]:
    """Trigger every error that a body can have in one place, and return the codes."""
    schema, seen = body.json_schema(), set()
    for value in values(schema, schema):
        text = json.dumps(value)
        try:
            body.validator.validate_json(text)
        except ValidationError as error:
            seen |= check(refused(error, body, parameters=False).errors)
    return seen


def errors_of_parameters(model: type[BaseModel]) -> set[str]:
    """Trigger every error that the parameters of a call can have, and return the codes."""
    seen = set()
    texts = {value if isinstance(value, str) else json.dumps(value) for value in JUNK}
    for name in ("unknown", *model.model_fields):
        for text in texts:
            try:
                model.model_validate_strings({name: text})
            except ValidationError as error:
                seen |= check(refused(error, model, parameters=True).errors)
    return seen


@pytest.mark.parametrize("name", BODIES)
def test_every_error_of_a_body_has_a_code_and_a_sentence_of_ours(name: str) -> None:
    assert {"wrong_type", "unknown_field"} <= errors_of_bodies(BODIES[name])


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_error_of_a_parameter_has_a_code_and_a_sentence_of_ours(name: str) -> None:
    assert "unknown_parameter" in errors_of_parameters(PARAMETERS[name])


@pytest.mark.parametrize(
    "text", [b"", b"{", b"{} {}", b"\xff", b'{"a": 1,}', b"[" * 5000, b'"\\ud800"', b"1" * 9000 + b"x"]
)
def test_truncated_json_is_refused_with_a_sentence_of_ours(text: bytes) -> None:
    for body in BODIES.values():
        with pytest.raises(ValidationError) as caught:
            body.validator.validate_json(text)
        found = refused(caught.value, body, parameters=False)
        assert re.fullmatch(
            r"The body is not valid JSON in UTF-8(: it ends early or has an error at line \d+, column \d+)?\.",
            found.detail,
        )


@pytest.mark.parametrize(
    ("path", "body", "code", "place", "sentence"),
    [
        ("/students/1/enroll", {"course_ids": []}, "too_short", "#/course_ids", "course_ids must contain between 1 and 100 ids."),
        ("/students/1/enroll", {"course_ids": [1] * 101}, "too_long", "#/course_ids", "course_ids must contain between 1 and 100 ids."),
        ("/students/1/enroll", {"course_ids": ["1"]}, "wrong_type", "#/course_ids/0", "course_ids/0 must be a whole number."),
        ("/students/1/enroll", {"course_ids": [1], "mode": "all"}, "not_an_option", "#/mode", 'mode must be "atomic" or "partial".'),
        ("/students/1/enroll", {"course_ids": [1], "x": 1}, "unknown_field", "#/x", "x is not a field of this body: remove it."),
        ("/students", student_fields(email=7), "wrong_type", "#/email", "email must be a string."),
        ("/students", student_fields(email="ada"), "not_an_email", "#/email", "email must be one e-mail address, such as ada@campus.example."),
        ("/students", student_fields(max_credits=-1), "too_small", "#/max_credits", "max_credits must be between 0 and 999."),
        ("/courses", {"code": "A"}, "required", "#/title", "title is required."),
        ("/courses", course_fields(title="x" * 201), "too_long", "#/title", "title must have between 1 and 200 characters."),
        ("/courses", course_fields(credits=0.305), "not_a_multiple", "#/credits", "credits must have at most two decimals, such as 1.25."),
        ("/students/1/holds", {"reason": "x", "blocks": ["swap"]}, "not_an_option", "#/blocks/0", 'blocks/0 must be "enroll" or "drop".'),
        ("/students", [], "wrong_type", "#", "The body must be an object."),
    ],
)  # fmt: skip
async def test_a_sentence_names_the_field_and_its_valid_values(
    client: Client, path: str, body: object, code: str, place: str, sentence: str
) -> None:
    answer = await call(client, "POST", path, body)

    assert places(answer) == [(code, place)]
    assert answer.body["errors"][0]["detail"] == answer.body["detail"] == sentence


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        ("2026-09-01T08:00:00Z", "2026-09-01T08:00:00Z"),
        ("2026-09-01T08:00:00.1Z", "2026-09-01T08:00:00.100000Z"),
        ("2026-09-01T08:00:00.1234567Z", "2026-09-01T08:00:00.123456Z"),
        ("2026-09-01T08:00:00.123456999Z", "2026-09-01T08:00:00.123456Z"),
        ("2026-09-01T08:00:00.9999999+02:00", "2026-09-01T06:00:00.999999Z"),
        ("2026-09-01t08:00:00.123456789z", "2026-09-01T08:00:00.123456Z"),
        ("2026-09-01T08:00:00." + "1" * 40 + "-05:30", "2026-09-01T13:30:00.111111Z"),
        ("1900-01-01T00:00:00.1234567-00:00", "1900-01-01T00:00:00.123456Z"),
    ],
)
async def test_an_instant_is_accepted_in_every_form_of_rfc_3339_and_cut_to_microseconds(
    client: Client, sent: str, taken: str
) -> None:
    fields = {"code": "2026F", "name": "Fall", "starts_on": "2026-09-01", "ends_on": "2026-12-18", "enroll_from": sent}

    assert (await create(client, "/terms", fields))["enroll_from"] == taken


@pytest.mark.parametrize(
    "sent",
    [
        *("2026-09-01T08:00:00", "2026-09-01 08:00:00Z", "2026-09-01", "2026-09-01T08:00Z", "2026-09-01T08:00:00.Z"),
        *(
            "2026-09-01T08:00:00,5Z",
            "2026-09-01T08:00:00+0200",
            "2026-09-31T08:00:00Z",
            "2026-09-01T24:00:00Z",
            1788249600,
        ),
    ],
)
async def test_a_value_that_is_not_an_rfc_3339_instant_is_refused(client: Client, sent: object) -> None:
    fields = {"code": "2026F", "name": "Fall", "starts_on": "2026-09-01", "ends_on": "2026-12-18", "enroll_from": sent}

    assert places(await call(client, "POST", "/terms", fields)) == [("not_an_instant", "#/enroll_from")]


async def errors_of_calls(client: Client) -> set[str]:
    """Trigger the errors that do not belong to a single field, and return the codes."""
    student, course = await new_student(client), await new_course(client)
    day = {"day": "mon", "start": "09:00", "end": "10:00"}
    seen: set[str] = set()
    for method, path, body, headers in (
        ("GET", "/students?limit=1&limit=2", None, {}),
        ("GET", "/students?q=a&sort=name", None, {}),
        ("GET", "/courses?code=1&sort=code", None, {}),
        ("GET", "/students?cursor=x", None, {}),
        ("GET", "/events?after=x", None, {}),
        ("GET", "/students?cursor=%ff", None, {}),
        ("PATCH", f"/students/{student}", {}, {"If-Match": "1"}),
        ("PATCH", f"/students/{student}", {"version": 7}, {}),
        ("POST", "/students", student_fields(), {"X-Actor": "x" * 201}),
        ("POST", "/students", student_fields(), {"Idempotency-Key": "x" * 256}),
        ("POST", "/students", {f"x{number}": 1 for number in range(10_001)}, {}),
        ("POST", "/courses", course_fields(meetings=[{**day, "end": "09:00"}]), {}),
        ("POST", "/courses", course_fields(credits=0.001), {}),
        ("POST", "/equivalences", {"codes": ["A1", "a1"]}, {}),
        ("PUT", f"/courses/{course}/reservations", {"reservations": [{"group": "a", "seats": 1}] * 2}, {}),
        ("PUT", "/grade-scale", {"grades": [{"grade": "A", "passes": True}, {"grade": "A", "passes": False}]}, {}),
        (
            "PUT",
            "/courses/1/requirements",
            {"groups": [{"kind": "co", "any_of": ["A1"], "min_grade": "A"}]},
            {},
        ),
        (
            "PUT",
            "/courses/1/requirements",
            {"groups": [{"kind": "co", "any_of": ["A1"], "in_progress": True}]},
            {},
        ),
        ("PUT", f"/courses/{course}/instructors", {"instructors": [{"instructor_id": 1, "primary": each} for each in (True, False)]}, {}),
        ("POST", f"/students/{student}/holds", {"reason": "x", "blocks": ["drop"], "from": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"}, {}),
        ("POST", f"/students/{student}/swap", {"drop": [course], "add": [course]}, {}),
        ("POST", f"/students/{student}/swap", {"drop": [course], "add": [8, 9], "on_full": "waitlist"}, {}),
        ("POST", "/enrollments", {"items": [{"student_id": 1, "course_ids": list(range(1, 101))}] * 21}, {}),
        ("PUT", "/students", {"items": [{"external_id": "a", "given_name": "A"}] * 2}, {}),
    ):  # fmt: skip
        answer = await call(client, method, path, body, headers=headers)
        errors = problem(answer, 422, "invalid")["errors"]
        seen |= check([Detail(error["code"], error["detail"]) for error in errors])
    return seen


async def test_every_documented_code_can_occur(client: Client) -> None:
    seen = await errors_of_calls(client)
    for body in BODIES.values():
        seen |= errors_of_bodies(body)
    for model in PARAMETERS.values():
        seen |= errors_of_parameters(model)

    assert seen == set(FIELD_CODES)


def test_no_module_raises_a_code_that_is_not_documented() -> None:
    raised = set()
    for path in Path(service.api.__file__).parent.parent.glob("*/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"wrong", "Detail"}:
                match node.args[:1]:
                    case [ast.Constant(value=code)]:
                        raised.add(code)
    assert "invalid_cursor" in raised
    assert raised <= set(FIELD_CODES)
