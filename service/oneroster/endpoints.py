"""The operations of OneRoster over HTTP: each of them in both versions."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice
from typing import Any, Final

from aiohttp import web

from service.api.keys import DATABASE, REGISTRY
from service.errors import Unavailable
from service.oneroster.errors import UnknownObject
from service.oneroster.fields import Fields, Kind, fields_of
from service.oneroster.filters import NOTHING, Parameters, read_members, read_parameters
from service.oneroster.objects import BASES, Organization, Version, Writer
from service.oneroster.operations import OPERATIONS, Operation
from service.oneroster.pages import Anchor, Anchors
from service.oneroster.resources import CLASSES, COURSES, SESSIONS, USERS, Narrowing, Resource, find_user
from service.settings import Settings
from service.web.auth import Scope
from service.web.endpoint import Call, Endpoint, endpoint
from sql import Connection
from sql.oneroster import use_custom_plans

OBJECTS_PER_TURN: Final = 200
"""Objects that are written before other requests get their turn: about 3 ms."""

Selected = Mapping[str, object]


class Roster:
    """What all requests of OneRoster to a process share."""

    def __init__(self, settings: Settings) -> None:
        self.max_limit = settings.oneroster_limit
        self.anchors = Anchors()
        self._settings = settings
        self._reads = asyncio.Semaphore(settings.oneroster_reads)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until fewer than ``oneroster_reads`` other requests are served.

        Raises:
            Unavailable: that takes too long.
        """
        try:
            async with asyncio.timeout(self._settings.acquire_timeout):
                await self._reads.acquire()
        except TimeoutError:
            raise Unavailable("Too many requests of OneRoster are being served; try again shortly.") from None
        try:
            yield
        finally:
            self._reads.release()

    def org_of(self, call: Call) -> Organization:
        """Return the institution of the caller."""
        name = call.caller.institution
        if name is None:
            settings = self._settings
            return Organization(
                settings.oneroster_org_sourced_id, settings.oneroster_org_name, settings.oneroster_org_identifier
            )
        institution = call[REGISTRY].institutions[name]
        return Organization(institution.name, institution.display_name, institution.name)

    def origin_of(self, call: Call) -> str:
        """Return the URL at which the caller reaches the service: that of the settings, or that of the request."""
        return self._settings.public_url or str(call.request.url.origin())


ROSTER = web.AppKey("roster", Roster)


class _Request:
    """A request that is being answered."""

    def __init__(self, version: Version, operation: Operation, call: Call) -> None:
        self._version = version
        self._operation = operation
        self._call = call
        self._roster = call[ROSTER]
        self._org = self._roster.org_of(call)
        self._writer = Writer(version, self._roster.origin_of(call), self._org)
        self._ids: Mapping[str, str] = call.request.match_info

    async def answer(self) -> web.Response:
        """Return the response to the request."""
        resource = self._operation.resource
        if resource is None:
            return await self.show_orgs()
        return await (self.show_one(resource) if self._operation.is_single else self.show_many(resource))

    def _fields(self, kind: Kind) -> Fields:
        return fields_of(kind, self._version, self._org)

    def _parameters(self, kind: Kind, resource: Resource | None) -> Parameters:
        exact = frozenset() if resource is None else frozenset(resource.exact)
        named = frozenset() if resource is None else resource.named
        return read_parameters(self._call.request.query, self._fields(kind), exact, named, self._roster.max_limit)

    async def show_orgs(self) -> web.Response:
        """Return the only institution."""
        if self._operation.is_single:
            if self._ids["sourcedId"] != self._org.sourced_id:
                raise self._unknown("sourcedId")
            members = read_members(self._call.request.query, self._fields("org"))
            return await self._respond(iter([self._writer.org()]), members, 1)
        parameters = self._parameters("org", None)
        found = [] if parameters.filter == NOTHING else [self._writer.org()]
        page = found[parameters.offset : parameters.offset + parameters.limit]
        return await self._respond(iter(page), parameters.members, len(found), self._links(parameters, len(found)))

    async def show_one(self, resource: Resource) -> web.Response:
        """Return one object."""
        members = read_members(self._call.request.query, self._fields(resource.kind))
        async with self._reading() as connection:
            row = await resource.find(connection, self._operation.scope, self._ids["sourcedId"])
        if row is None:
            raise self._unknown("sourcedId")
        return await self._respond(iter([resource.write(self._writer, row)]), members, 1)

    async def show_many(self, resource: Resource) -> web.Response:
        """Return a page of a list."""
        parameters = self._parameters(resource.kind, resource)
        async with self._reading() as connection:
            below = await self._below_parent(connection)
            rows, total = await self._read_page(connection, resource, below, parameters)
        objects = (resource.write(self._writer, row) for row in rows)
        return await self._respond(objects, parameters.members, total, self._links(parameters, total))

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Connection]:
        async with self._roster.turn(), self._call[DATABASE].viewing() as connection:
            await use_custom_plans(connection)
            yield connection

    async def _below_parent(self, connection: Connection) -> Narrowing | None:
        """Return the parameters that limit a list to what is below its parents; None if there is no parent, in 1.1.

        Raises:
            UnknownObject: there is no parent, in 1.2.
        """
        missing: str | None = None
        below: Narrowing | None = {}
        if self._ids.get("schoolSourcedId", self._org.sourced_id) != self._org.sourced_id:
            missing = "schoolSourcedId"
        elif (parent := self._operation.parent) is not None:
            below = await self._find_parent(connection, self._ids[f"{parent}SourcedId"])
            missing = f"{parent}SourcedId" if below is None else None
        if missing is not None and self._version == "v1p2":
            raise self._unknown(missing)
        return None if missing is not None or below is None else {**self._operation.scope, **below}

    async def _find_parent(self, connection: Connection, sourced_id: str) -> Narrowing | None:
        """Return the parameters that limit a list to what is below an object, or None if there is no such object."""
        resource = self._operation.resource
        match self._operation.parent:
            case "class":
                found = await CLASSES.find(connection, {}, sourced_id)
                return None if found is None else {"class_id" if resource is USERS else "course_id": found.id}
            case "course":
                found = await COURSES.find(connection, {}, sourced_id)
                return None if found is None else {"first_id": found.id}
            case "term":
                found = await SESSIONS.find(connection, {"types": ["term", "schoolYear"]}, sourced_id)
                return None if found is None else {"session_id" if resource is SESSIONS else "term_id": found.id}
            case "student" | "teacher" as role:
                user = await find_user(connection, sourced_id, [role])
            case _:
                user = await find_user(connection, sourced_id)
        return None if user is None else {"student_id" if user.role == "student" else "instructor_id": user.id}

    async def _read_page(
        self, connection: Connection, resource: Resource, below: Narrowing | None, parameters: Parameters
    ) -> tuple[Sequence[Any], int]:
        """Return the rows of a page, and how many rows the whole list has; there are none without a parent."""
        chosen, limit, offset = parameters.filter, parameters.limit, parameters.offset
        if below is None or chosen.nothing:
            return [], 0
        scope = await resource.narrow(connection, below, chosen.exact)
        if scope is None:
            return [], 0
        place = (self._call.caller, self._call.request.path, self._call.request.query.get("filter"), limit)
        anchor = self._roster.anchors.find((place, offset)) if parameters.sort is None else None
        read = partial(resource.read, connection, scope, chosen)
        rows = await read(
            after=resource.first_key if anchor is None else anchor.after,
            limit=limit,
            offset=offset if anchor is None else 0,
            sort=parameters.sort,
            descending=parameters.descending,
            counted=anchor is None,
        )
        if anchor is not None:
            total = anchor.total
        elif rows or not offset:
            total = rows[0].total if rows else 0
        else:
            first = await read(after=resource.first_key, limit=1, offset=0, counted=True)
            total = first[0].total if first else 0
        if len(rows) == limit and parameters.sort is None:
            self._roster.anchors.remember((place, offset + limit), Anchor(resource.key_of(rows[-1]), total))
        return rows, total

    def _unknown(self, parameter: str) -> UnknownObject:
        return UnknownObject(WORDS.get(parameter, self._operation.member), self._ids[parameter])

    def _links(self, parameters: Parameters, total: int) -> list[str]:
        """Return the links to other pages of a list."""
        limit, offset = parameters.limit, parameters.offset
        last = max(total - 1, 0) // limit * limit
        pages = {"first": 0, "last": last}
        if offset > 0:
            pages["prev"] = max(offset - limit, 0)
        if offset + limit < total:
            pages["next"] = offset + limit
        origin = self._roster.origin_of(self._call)
        return [
            f'<{origin}{self._call.request.rel_url.update_query(limit=limit, offset=start)}>; rel="{name}"'
            for name, start in pages.items()
        ]

    async def _respond(
        self, objects: Iterator[Selected], members: frozenset[str] | None, total: int, links: Sequence[str] = ()
    ) -> web.Response:
        parts: list[str] = []
        while chunk := [_selected(each, members) for each in islice(objects, OBJECTS_PER_TURN)]:
            parts.append(json.dumps(chunk, ensure_ascii=False, separators=(",", ":"))[1:-1])
            if len(chunk) == OBJECTS_PER_TURN:
                await asyncio.sleep(0)
        text = ",".join(parts)
        body = text if self._operation.is_single else f"[{text}]"
        headers = {"X-Total-Count": str(total)}
        if links:
            headers["Link"] = ", ".join(links)
        return web.Response(
            body=f'{{"{self._operation.member}":{body}}}\n'.encode(), headers=headers, content_type="application/json"
        )


WORDS: Final = {
    "schoolSourcedId": "school",
    "classSourcedId": "class",
    "courseSourcedId": "course",
    "studentSourcedId": "student",
    "teacherSourcedId": "teacher",
    "userSourcedId": "user",
    "termSourcedId": "term",
}
"""What each parameter of a path names, in the words of a sentence."""


def _selected(value: Selected, members: frozenset[str] | None) -> Selected:
    return value if members is None else {name: member for name, member in value.items() if name in members}


def _endpoint_of(version: Version, operation: Operation) -> Endpoint:
    async def show(call: Call) -> web.Response:
        return await _Request(version, operation, call).answer()

    show.__name__, show.__doc__ = operation.id, f"{operation.summary}."
    scope: Scope = "roster_core" if operation.is_core else "roster"
    return endpoint("GET", f"{BASES[version]}{operation.path}", scope=scope, parses=False)(show)


ENDPOINTS: Final = [_endpoint_of(version, operation) for version in BASES for operation in OPERATIONS]
