"""Who calls: the caller of a request, the scopes that an endpoint may require, and the two refusals."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from service.errors import Detail, DomainError

Scope: TypeAlias = Literal["read", "enroll", "manage", "override", "merge", "events", "admin", "metrics", "self"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

SCOPE_DESCRIPTIONS: Final[dict[Scope, str]] = {
    "read": "Read students, courses, terms and enrollments.",
    "enroll": "Enroll students, drop and swap courses.",
    "manage": "Create, change and delete students, courses and terms; record completions.",
    "override": "Place holds and grant overrides; with `enroll`, drop courses without a withdrawal.",
    "merge": "Merge the double records of a student.",
    "events": "Read the feed of changes.",
    "admin": "Manage API keys, webhooks and institutions; erase students.",
    "metrics": "Read the metrics of the service.",
    "self": "Read and change the enrollments of the one student that the token names.",
}

ACTS_FOR_OTHERS: Final[frozenset[Scope]] = frozenset({"enroll", "manage", "override", "merge", "admin"})
"""A caller with one of these scopes may say in X-Actor on whose behalf it calls."""


SELF_COVERS: Final[frozenset[Scope]] = frozenset({"read", "enroll"})
"""A caller with the scope ``self`` may make the calls of these scopes whose path names its student."""


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. ``name`` becomes the actor of events; None if nobody is authenticated."""

    name: str | None
    scopes: frozenset[Scope]
    student_id: int | None = None
    """The student of the scope ``self``; None if there is no such student."""
    institution: str | None = None
    """The institution whose data the caller may reach; None if the service has only one, or for an operator."""


ANYONE: Final = Caller(None, frozenset(SCOPES) - {"self"})
"""The caller of a service that authenticates nobody."""


class Unauthenticated(DomainError):
    """The request has no valid API key or access token."""

    code, status, title = "unauthenticated", 401, "Not authenticated"

    def __init__(self, detail: str, *, error: str | None = "invalid_token") -> None:
        super().__init__(detail)
        self.challenge = "Bearer" if error is None else f'Bearer error="{error}"'
        """The value of WWW-Authenticate (RFC 6750 section 3)."""


class ScopeMissing(DomainError):
    """The API key or access token does not have the scope that the call requires."""

    code, status, title = "scope_missing", 403, "Scope missing"

    def __init__(self, scope: Scope) -> None:
        sentence = f"This call requires the scope {scope}."
        super().__init__(sentence, [Detail(self.code, sentence, parameter="Authorization", params={"scope": scope})])
        self.challenge = f'Bearer error="insufficient_scope", scope="{scope}"'


Authenticate: TypeAlias = Callable[[Mapping[str, str]], Caller | Awaitable[Caller]]
"""Return the caller that the headers of a request name; an awaitable where that takes a look-up."""
