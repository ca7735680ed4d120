"""Access tokens: which are accepted, which are not, and how the keys of the provider are kept."""

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import OctKey, RSAKey

from service.auth import tokens
from service.auth.tokens import ProviderKeys, Tokens, UnusableKeySet, keys_of
from service.errors import Unavailable
from service.web.auth import Caller
from tests.provider import AUDIENCE, Provider, encoded, provider

FOREIGN = RSAKey.generate_key(2048, {"kid": "first", "use": "sig"})


@pytest.fixture
async def issuer() -> AsyncIterator[Provider]:
    async with provider() as running:
        yield running


@pytest.fixture
async def keys(issuer: Provider) -> AsyncIterator[ProviderKeys]:
    made = ProviderKeys(issuer.keys_url)
    task = asyncio.create_task(made.keep_fresh())
    yield made
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def student_of(_institution: str | None, external_id: str) -> int | None:
    return {"S-1": 1}.get(external_id)


@pytest.fixture
def verifier(issuer: Provider, keys: ProviderKeys) -> Tokens:
    return Tokens(
        issuer=issuer.issuer,
        audience=AUDIENCE,
        keys=keys,
        institution_claim=None,
        student_claim="student_number",
        find_student=student_of,
    )


async def test_a_token_stands_for_its_subject_and_scopes(issuer: Provider, verifier: Tokens) -> None:
    found = await verifier.find(issuer.token(scope="read enroll openid unknown"))
    assert found is not None
    caller, seconds = found
    assert caller == Caller("portal", frozenset({"read", "enroll"}))
    assert 0 < seconds <= 60


async def test_a_verified_token_is_relied_on_until_it_expires(issuer: Provider, verifier: Tokens) -> None:
    found = await verifier.find(issuer.token(exp=int(time.time()) - 25))
    assert found is not None
    assert found[1] <= 5


async def test_a_token_of_a_student_names_the_student_by_id(issuer: Provider, verifier: Tokens) -> None:
    for number, student in (("S-1", 1), ("S-2", None), (7, None), ("", None)):
        found = await verifier.find(issuer.token(scope="self", student_number=number))
        assert found is not None
        name = "portal" if student is None else f"student-{student}"
        assert found[0] == Caller(name, frozenset({"self"}), student)


async def test_the_claim_of_a_student_counts_with_the_scope_only(issuer: Provider, verifier: Tokens) -> None:
    found = await verifier.find(issuer.token(scope="read", student_number="S-1"))
    assert found is not None
    assert found[0].student_id is None


def unsigned(header: dict[str, Any], claims: dict[str, Any]) -> str:
    return ".".join(encoded(json.dumps(part).encode()) for part in (header, claims)) + "."


def shared(provider: Provider, secret: bytes) -> str:
    """Sign with a public key as if it were a shared secret; joserfc itself refuses to."""
    claims = {"iss": provider.issuer, "aud": AUDIENCE, "sub": "x", "exp": NOW + 999, "scope": "admin"}
    text = unsigned({"alg": "HS256", "typ": "at+jwt", "kid": "first"}, claims)[:-1]
    signature = hmac.digest(secret, text.encode(), "sha256")
    return f"{text}.{encoded(signature)}"


FORMS: dict[str, Callable[[Any], bytes]] = {
    "PEM": lambda key: key.as_pem(private=False),
    "DER": lambda key: key.as_der(private=False),
    "JSON": lambda key: json.dumps(key.as_dict(private=False)).encode(),
}
NOW = int(time.time())
SHARED = OctKey.import_key("x" * 32)
ATTACKS: dict[str, Callable[[Provider], str]] = {
    "alg none": lambda it: unsigned(
        {"alg": "none", "typ": "at+jwt", "kid": "first"},
        {"iss": it.issuer, "aud": AUDIENCE, "sub": "x", "exp": NOW + 999, "scope": "admin"},
    ),
    "HS256 with the public key": lambda it: shared(it, FORMS["PEM"](it.keys[0])),
    "HS256 with the public key in DER": lambda it: shared(it, FORMS["DER"](it.keys[0])),
    "HS256 with the public key in JSON": lambda it: shared(it, FORMS["JSON"](it.keys[0])),
    "HS256": lambda it: it.token(key=SHARED, header={"kid": "first"}),
    "foreign key, known kid": lambda it: it.token(key=FOREIGN),
    "foreign kid": lambda it: it.token(key=FOREIGN, header={"kid": "elsewhere"}),
    "no kid": lambda it: it.token(header={"kid": ""}),
    "jku": lambda it: it.token(key=FOREIGN, header={"jku": "https://attacker.example/keys"}),
    "jwk": lambda it: it.token(key=FOREIGN, header={"jwk": FOREIGN.as_dict(private=False)}),
    "x5u": lambda it: it.token(key=FOREIGN, header={"x5u": "https://attacker.example/cert"}),
    "unknown critical header": lambda it: it.token(header={"crit": ["https://example/x"], "https://example/x": 1}),
    "typ of an ID token": lambda it: it.token(header={"typ": "JWT"}),
    "no typ": lambda it: it.token(header={"typ": ""}),
    "foreign issuer": lambda it: it.token(iss="https://attacker.example"),
    "issuer with a slash more": lambda it: it.token(iss=it.issuer + "/"),
    "foreign audience": lambda it: it.token(aud="https://other.example"),
    "audiences without ours": lambda it: it.token(aud=["https://other.example", "x"]),
    "no audience": lambda it: it.token(without=("aud",)),
    "no issuer": lambda it: it.token(without=("iss",)),
    "no subject": lambda it: it.token(without=("sub",)),
    "no end": lambda it: it.token(without=("exp",)),
    "expired": lambda it: it.token(exp=NOW - 60),
    "not yet valid": lambda it: it.token(nbf=int(time.time()) + 300),
    "end that is no number": lambda it: it.token(exp="soon"),
    "subject that is no text": lambda it: it.token(sub=7),
    "subject of 1,000 characters": lambda it: it.token(sub="x" * 1000),
    "subject with a line break": lambda it: it.token(sub="a\nb"),
    "scope that is a list": lambda it: it.token(scope=["admin"]),
    "changed claims": lambda it: ".".join(
        (it.token().split(".")[0], it.token(scope="admin").split(".")[1], it.token().split(".")[2])
    ),
    "no signature": lambda it: it.token().rpartition(".")[0] + ".",
    "100 KB": lambda it: it.token(padding="x" * 100_000),
    "nothing": lambda it: "",
    "dots": lambda it: "..",
    "not ASCII": lambda it: "é.é.é",
    "deeply nested": lambda it: (
        unsigned({"alg": "RS256", "typ": "at+jwt", "kid": "first"}, {}).split(".")[0]
        + "."
        + encoded(b"[" * 5000)
        + ".AAAA"
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_forged_token_is_refused(attack: str, issuer: Provider, verifier: Tokens) -> None:
    assert await verifier.find(issuer.token()) is not None
    assert await verifier.find(ATTACKS[attack](issuer)) is None


@given(st.text() | st.lists(st.text(), min_size=3, max_size=3).map(".".join))
def test_no_text_breaks_the_verifier(text: str) -> None:
    keys = ProviderKeys("http://127.0.0.1:1")
    verifier = Tokens(
        issuer="i", audience="a", keys=keys, institution_claim=None, student_claim=None, find_student=student_of
    )
    assert asyncio.run(verifier.find(text)) is None


async def test_a_new_key_of_the_provider_is_fetched_when_a_token_names_it(
    issuer: Provider, keys: ProviderKeys, verifier: Tokens
) -> None:
    assert await verifier.find(issuer.token()) is not None
    before = issuer.fetches
    issuer.rotate("second")
    # Many at once, which share one fetch.
    found = await asyncio.gather(*(verifier.find(issuer.token(jti=f"t-{n}")) for n in range(20)))
    assert None not in found
    assert issuer.fetches == before + 1


async def test_unknown_keys_make_one_fetch_a_minute(
    issuer: Provider, verifier: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await verifier.find(issuer.token()) is not None
    before = issuer.fetches
    for number in range(50):
        assert await verifier.find(issuer.token(key=FOREIGN, header={"kid": f"k{number}"})) is None
    assert issuer.fetches == before + 1
    monkeypatch.setattr(tokens, "REFETCH_SECONDS", 0.0)
    assert await verifier.find(issuer.token(key=FOREIGN, header={"kid": "later"})) is None
    assert issuer.fetches == before + 2


@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.Response(status=500),
        lambda: web.Response(status=302, headers={"Location": "http://attacker.example/"}),
        lambda: web.Response(body=b" " * (tokens.MAX_KEY_SET_BYTES + 1)),
        lambda: web.Response(text="not JSON"),
        lambda: web.json_response([]),
        lambda: web.json_response({"keys": []}),
    ],
    ids=["fault", "redirect", "huge", "no JSON", "no object", "no keys"],
)
async def test_the_keys_are_kept_while_the_provider_fails(
    answer: Callable[[], web.Response], issuer: Provider, verifier: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "REFETCH_SECONDS", 0.0)
    assert await verifier.find(issuer.token()) is not None
    before = issuer.fetches
    issuer.answer = answer()
    assert await verifier.find(issuer.token(key=FOREIGN, header={"kid": "unknown"})) is None
    assert issuer.fetches == before + 1
    assert await verifier.find(issuer.token()) is not None


async def test_before_the_first_fetch_nobody_is_refused_for_good() -> None:
    keys = ProviderKeys("http://127.0.0.1:1/")
    task = asyncio.create_task(keys.keep_fresh())
    try:
        with pytest.raises(Unavailable):
            await keys.get("first")
    finally:
        task.cancel()


def test_a_key_that_is_not_understood_leaves_the_others() -> None:
    good = FOREIGN.as_dict(private=False)
    odd: list[Any] = [{"kty": "AKP", "kid": "a"}, {"kty": "RSA", "kid": "b"}, {"kty": "oct", "kid": "c", "k": "AAAA"}]
    odd += [{**good, "kid": "d", "use": "enc"}, {**good, "kid": 7}, "text", None]
    assert set(keys_of(json.dumps({"keys": [*odd, good]}).encode())) == {"first"}
    with pytest.raises(UnusableKeySet):
        keys_of(json.dumps({"keys": odd}).encode())
    with pytest.raises(UnusableKeySet):
        keys_of(json.dumps({"keys": [good] * (tokens.MAX_KEYS + 1)}).encode())
