"""Settings from the environment: every limit of the service, with the reason for its default."""

import os
import re
import tempfile
from datetime import UTC, datetime, tzinfo
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, Self, TypeAlias
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

NESTED: Final = (
    ("lock_timeout", "statement_timeout"),
    ("statement_timeout", "command_timeout"),
    ("command_timeout", "write_timeout"),
    ("admission_seconds", "write_timeout"),
)
"""Pairs of time limits. The first must be below the second, or the second would end a wait and hide its cause."""


def _check_database_url(value: str) -> str:
    """Return the URL; raise an error, which does not show it, unless both drivers can read it and read it alike."""
    if "://" not in value and "=" in value:
        raise ValueError(
            "key=value pairs are not supported; write a URL such as postgresql://user:password@host:5432/name"
        )
    try:
        parts = urlsplit(value)
        ports = str(conninfo_to_dict(value).get("port", "")).split(",")
    except (ValueError, psycopg.ProgrammingError):
        well_formed = False
    else:
        # libpq ends the password at the first @, asyncpg at the last one before a slash.
        well_formed = (
            parts.scheme in {"postgresql", "postgres"}
            and not parts.fragment
            and "@" not in parts.path
            and parts.netloc.count("@") == ("@" in value)
            and all(port.isdecimal() for port in ports if port)
        )
    if not well_formed:
        raise ValueError(
            "write a URL such as postgresql://user:password@host:5432/name, "
            "with special characters in the user and the password percent-encoded (@ as %40, / as %2F, # as %23)"
        )
    return value


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _to_upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _check_host(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9._-]+|\[?[0-9a-f:.]+\]?", value):
        raise ValueError("write a host name or address without scheme and port, such as enrollment.campus.example")
    return value.strip("[]").removesuffix(".")


def _check_origin(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@*\s]+", value):
        raise ValueError("write an origin as scheme://host:port without a path, such as https://portal.campus.example")
    return value


def _check_network(value: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(value)
    except ValueError:
        raise ValueError("write a network such as 10.0.0.0/8 or an address, without bits outside of its mask") from None


def _check_collector(value: str) -> str:
    if not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#\s]*)?", value):
        raise ValueError("write the address of a collector without user and password, such as http://127.0.0.1:4318")
    return value.rstrip("/")


Lower: TypeAlias = Annotated[str, StringConstraints(to_lower=True)]
Hosts: TypeAlias = Annotated[
    tuple[Annotated[Lower, AfterValidator(_check_host)], ...], NoDecode, BeforeValidator(_split)
]
Networks: TypeAlias = Annotated[
    tuple[Annotated[IPv4Network | IPv6Network, BeforeValidator(_check_network)], ...], NoDecode, BeforeValidator(_split)
]
WebOrigins: TypeAlias = Annotated[
    tuple[Annotated[Lower, AfterValidator(_check_origin)], ...], NoDecode, BeforeValidator(_split)
]


def zone_of(name: str) -> tzinfo:
    """Return a time zone by its IANA name; UTC does not need a database of time zones."""
    return UTC if name == "UTC" else ZoneInfo(name)


def _known_zone(name: str) -> str:
    try:
        zone_of(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError("must be the IANA name of a time zone, such as Europe/Berlin") from error
    return name


def _check_public_url(value: str) -> str:
    if not re.fullmatch(r"https?://[^/?#@*\s]+(/[A-Za-z0-9._~-]+)*/?", value):
        raise ValueError("write a URL such as https://campus.example or https://campus.example/enrollment")
    return value.removesuffix("/")


def _check_sourced_id(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._~:@-]{0,254}", value):
        raise ValueError("write up to 255 letters, digits and . _ ~ : @ -, and begin with a letter or a digit")
    return value


def _check_clock(value: str) -> str:
    if value[:1] in {"+", "-"}:
        well_formed = re.fullmatch(r"[+-][0-9]{1,6} ?[smhdw]", value) is not None
    else:
        try:
            well_formed = datetime.fromisoformat(value).tzinfo is not None
        except ValueError:
            well_formed = False
    if not well_formed:
        raise ValueError(
            "write an offset such as +7d or -90m (s, m, h, d, w), or an instant such as 2027-01-31T23:59:00Z"
        )
    return value


SENTENCES: Final = {
    "bool_parsing": "must be true or false",
    "finite_number": "must be a number",
    "float_parsing": "must be a number",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_parsing": "must be a whole number",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be one of {expected}",
    "string_pattern_mismatch": "must be up to 63 lower-case letters, digits and underscores, and not begin with a digit",
}
"""Pydantic's types of errors that a setting can cause, each with a sentence of ours."""


def explain(error: ValidationError) -> list[str]:
    """Return a sentence for each setting that is refused."""
    sentences = []
    for item in error.errors(include_url=False, include_input=False):
        name = [str(part).upper() for part in item["loc"][:1]]
        sentence = SENTENCES.get(item["type"], item["msg"].removeprefix("Value error, "))
        sentences.append(": ".join([*name, sentence.format_map(item.get("ctx", {}))]))
    return sentences


class ServiceRole(NamedTuple):
    """The role of the service in the database."""

    name: str
    password: str | None = None


class Settings(BaseSettings):
    """Settings that an operator can change. Each is read from the environment variable with its name in upper case.

    Times are in seconds, sizes in bytes.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    host: str = "127.0.0.1"
    """Loopback by default: without API keys and without token_issuer, everybody who reaches the service may do anything."""

    port: int = Field(default=8080, ge=0, le=65535)
    """The usual port of an unprivileged HTTP service; 0 picks a free one."""

    allowed_hosts: Hosts = ()
    """Comma-separated names, besides localhost, that a Host header may have; if unset: none if HOST is loopback, else any."""

    public_url: Annotated[str, AfterValidator(_check_public_url)] | None = None
    """The URL at which a reverse proxy offers the service; it strips the path before it forwards. Links begin with its path."""

    console: Literal["on", "off"] = "on"
    """The pages below /console; with off there are none. They need no scope themselves: they call the API with the user's token."""

    cors_origins: WebOrigins = ()
    """Comma-separated origins whose web pages may call the service and read its responses; other pages may not."""

    trusted_proxies: Networks = ()
    """Comma-separated networks of your proxies, such as 10.0.0.0/8: the log believes their X-Forwarded-For, and no other."""

    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """A port that serves /metrics to everyone who reaches it; if unset, only PORT does, for callers with the scope metrics."""

    metrics_host: str = "127.0.0.1"
    """Loopback by default: METRICS_PORT asks nobody for a key. In a container, 0.0.0.0, without publishing the port."""

    log_format: Literal["auto", "text", "json"] = "auto"
    """Text for people, or one JSON object per line for machines; auto is text on a terminal and JSON elsewhere."""

    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_to_upper)] = "INFO"
    """Requests are logged at INFO and make up most of a log."""

    auth: Literal["on", "off"] = "on"
    """With off, everybody who reaches the service may do anything: only for a network that authenticates callers itself."""

    development_key: bool = False
    """With true, the first start creates an API key with every scope and prints it: for a stack on a laptop."""

    token_issuer: str | None = None
    """The identity provider whose access tokens are accepted: the `iss` of its tokens. If unset, only API keys are."""

    token_audience: str | None = None
    """The name of this service at the identity provider: the `aud` of its tokens. Required with token_issuer."""

    token_keys_url: str | None = None
    """Where the identity provider publishes its keys (JWKS). Required with token_issuer; https, or http on loopback."""

    token_institution_claim: str | None = None
    """The claim that names the institution of a token. Required with token_issuer and registry_schema."""

    token_student_claim: str | None = None
    """The claim that holds the external id of the student whom a token with the scope `self` is for."""

    otlp_endpoint: Annotated[str, AfterValidator(_check_collector)] | None = None
    """Where traces are sent (OTLP over HTTP), such as http://127.0.0.1:4318; if unset, there are no traces and no cost."""

    listen_backlog: PositiveInt = 4096
    """Connections that wait to be accepted: a rush arrives within a second. Linux caps this at net.core.somaxconn."""

    database_url: Annotated[str, AfterValidator(_check_database_url)] | None = Field(default=None, repr=False)
    """PostgreSQL 15 or newer, as postgresql://user:password@host:port/name; if unset, the embedded server is used."""

    migration_database_url: Annotated[str, AfterValidator(_check_database_url)] | None = Field(default=None, repr=False)
    """For the owner of the tables, who migrates them and grants the role of database_url what it needs; else database_url."""

    database_schema: str = Field(default="public", pattern=r"^[a-z_][a-z0-9_]{0,62}$")
    """Each institution has a schema of its own."""

    registry_schema: str | None = Field(default=None, pattern=r"^[a-z_][a-z0-9_]{0,62}$")
    """The schema of the registry, with which one service serves many institutions; if unset, it serves database_schema."""

    registry_interval: PositiveFloat = 1.0
    """How often each process looks for changes of the registry: a suspended institution is refused after that."""

    institutions_in_memory: PositiveInt = 256
    """Most institutions whose catalogs and queues are kept in memory; one with 1,000 courses takes about 1 MB."""

    institution_idle_seconds: PositiveFloat = 600.0
    """An institution without requests for this time is removed from memory; the next request loads its catalog again."""

    institution_share: float = Field(default=0.5, gt=0, le=1)
    """Largest share of a process's queues and time that one institution takes while others have requests."""

    migrate_parallel: PositiveInt = 4
    """Institutions that are migrated at the same time; each takes one connection."""

    data_dir: Path = Path(".data")
    """Where the embedded server keeps its files between runs."""

    migrate_on_start: bool = True
    """Set to false if a separate job migrates before the replicas start."""

    pool_size: PositiveInt = 10
    """One connection writes, the others read; PostgreSQL's default of 100 connections is enough for ten processes."""

    acquire_timeout: PositiveFloat = 2.0
    """Longest wait for a connection from the pool; after that, a 503 and a retry serve the caller better."""

    statement_timeout: PositiveFloat = 5.0
    """The server cancels longer statements; on a million rows, no statement of the service takes a tenth of this."""

    command_timeout: PositiveFloat = 7.0
    """Longest wait for a statement; above statement_timeout, so that it only applies when the server does not respond."""

    lock_timeout: PositiveFloat = 4.0
    """Longest wait for the write lock; below statement_timeout, so that it is not reported as a slow statement."""

    idle_in_transaction_timeout: PositiveFloat = 5.0
    """Longest time that a frozen process can hold the write lock."""

    admission_seconds: PositiveFloat = 2.0
    """A request with a longer expected wait gets 503 at once: people wait a few seconds for an answer."""

    write_timeout: PositiveFloat = 10.0
    """Longest wait of a batch or a bulk request for the other writes of its process."""

    batching: bool = True
    """Whether concurrent requests share a transaction or a statement; set to false only to compare."""

    batch_pairs: PositiveInt = 512
    """Most pairs of student and course in one transaction; larger transactions take longer at the same throughput."""

    promotions_per_transaction: PositiveInt = 1000
    """Most waitlisted students that one transaction judges, which holds the write lock for a few tenths of a second."""

    batch_reads: PositiveInt = 128
    """Most callers whose lookups share one statement."""

    queue_limit: PositiveInt = 8192
    """Most requests in a queue: about two seconds of requests at 4,000 per second."""

    connect_timeout: PositiveFloat = 5.0
    """A server on the same network answers within milliseconds or is down."""

    retry_ceiling: PositiveFloat = 5.0
    """Longest pause between attempts to reach a database that is not up yet; the pause doubles up to this."""

    migrate_timeout: PositiveFloat = 600.0
    """Longest wait for another process to finish migrating; an index over 10⁷ rows takes minutes."""

    check_timeout: PositiveFloat = 1800.0
    """Longest time that `check` keeps its snapshot, which delays cleanup; 10⁷ events take about 5 minutes."""

    sweep_interval: PositiveFloat = 60.0
    """Longest delay before a time-based promotion (for example after a hold expires) is noticed."""

    idempotency_seconds: PositiveFloat = 86400.0
    """How long an answer is kept for requests with its Idempotency-Key: a caller that was down over night can repeat."""

    refusals_kept: float = Field(default=30.0, ge=0)
    """Days for which refusals are kept: questions about them come within weeks. With 0, none are kept."""

    tombstones_kept: PositiveFloat = 400.0
    """Days for which the service tells other systems what was deleted: each of them syncs at least once a year."""

    refusals_queue: PositiveInt = 10_000
    """Most refusals that wait in memory to be written, about 5 MB; those above this are lost, and the log counts them."""

    time_zone: Annotated[str, AfterValidator(_known_zone)] = "UTC"
    """IANA name of the institution's time zone, such as Europe/Berlin; a term ends at midnight after its last day."""

    oneroster_org_sourced_id: Annotated[str, AfterValidator(_check_sourced_id)] = "institution"
    """The sourcedId of the institution in OneRoster; with registry_schema, it is the name of the institution."""

    oneroster_org_name: str = "Institution"
    """The name of the institution in OneRoster; with registry_schema, it is the display name of the institution."""

    oneroster_org_identifier: str = "institution"
    """What authorities call the institution, such as its NCES id; with registry_schema, it is the name of the institution."""

    oneroster_limit: PositiveInt = 10_000
    """Largest page of OneRoster: some systems ask for as many rows, and stop at the first page that has fewer."""

    oneroster_reads: PositiveInt = 4
    """Most requests of OneRoster that a process serves at once, so that large pages and slow filters leave the pool to others."""

    oneroster_token_seconds: PositiveInt = 3600
    """How long an access token of OneRoster is valid: a sync takes minutes, and a new token costs one request."""

    poll_interval: PositiveFloat = 0.2
    """How often each process looks for new events on behalf of all its waiting readers and streams."""

    feed_streams: PositiveInt = 2000
    """Most streams of the feed in a process, for each institution; 1,000 of them take 15 MB and get an event within 0.4 s."""

    webhook_hosts: Hosts = ()
    """Comma-separated hosts that webhooks may reach at private addresses and over http; others: public addresses, https."""

    webhook_limit: PositiveInt = 100
    """Most webhooks of an institution: each waits in memory, and costs a delivery for each event that it wants."""

    webhook_deliveries: PositiveInt = 64
    """Most deliveries that a process has under way: enough that slow receivers don't hold up the others."""

    webhook_timeout: PositiveFloat = 20.0
    """Longest time for one delivery, with its connection and the answer (Standard Webhooks recommends 15 to 30 s)."""

    webhook_lease: PositiveFloat = 15.0
    """After this time without a sign of the process that delivers the webhooks of an institution, another one does."""

    body_limit: PositiveInt = 1024 * 1024
    """More than any useful request: 1,000 courses with five meetings each are about 800 KiB."""

    body_members: PositiveInt = 10_000
    """Twice the members of the largest bulk request; each unknown member is an error that takes time to report."""

    bulk_members: PositiveInt = 50_000
    """The same for a body with up to 1,000 students or courses: a course with five meetings has 46, as they are counted."""

    body_timeout: PositiveFloat = 10.0
    """Enough for body_limit over a slow mobile connection; a slower body only occupies a connection."""

    peer_connections: NonNegativeInt = 0
    """Most connections from one address; 0 means no limit, since callers behind a load balancer share its address."""

    header_timeout: PositiveFloat = 15.0
    """Callers send the header of their first request within milliseconds; a slower one only occupies a connection."""

    send_timeout: PositiveFloat = 30.0
    """Enough to receive 500 items over a slow mobile connection; a slower caller only occupies memory."""

    keepalive_timeout: PositiveFloat = 75.0
    """Above the 60 s of common load balancers, so that the load balancer closes idle connections."""

    drain_seconds: float = Field(default=0.0, ge=0)
    """How long to report "not ready" before the listener closes; set it to the load balancer's check interval."""

    linger_seconds: float = Field(default=1.0, ge=0)
    """How long requests on open connections are answered after the listener closes, with Connection: close."""

    shutdown_timeout: PositiveFloat = 8.0
    """How long requests in flight, and then their connections, may take to end; `docker stop` kills after 10 s."""

    spool_dir: Path | None = None
    """Where uploads and exports wait, readable by the service alone; if unset, a folder for temporary files."""

    import_upload: PositiveInt = 512 * 1024 * 1024
    """Largest upload: a zip of ten million enrollments has half of that."""

    import_upload_seconds: PositiveFloat = 900.0
    """Longest time that an upload may take: import_upload at 5 Mbit/s."""

    import_unpacked: PositiveInt = 4 * 1024 * 1024 * 1024
    """Most bytes of all files of an import: no text packs to less than an eighth of that, but a zip bomb does."""

    import_rows: PositiveInt = 5_000_000
    """Most rows of an import, which take about 3 GB in the database while they are staged."""

    import_chunk: PositiveInt = 100
    """Rows that one transaction of an import applies: it holds the write lock for some hundredths of a second."""

    import_pause: float = Field(default=1.0, ge=0)
    """How long an import pauses after each step, in times of its duration; with 0, callers wait for it more often."""

    imports_kept: PositiveFloat = 7.0
    """Days for which an import is kept after its last change, with its staged rows and the report of refused ones."""

    exports_kept: PositiveFloat = 24.0
    """Hours for which the file of an export is kept: it is a copy of personal data."""

    allow_reset: bool = False
    """With true, `python -m service reset` may delete all data, and test_clock may be set: only for tests."""

    test_clock: Annotated[str, AfterValidator(_check_clock)] | None = None
    """For tests of deadlines: an offset such as +7d, or a fixed instant such as 2027-01-31T23:59:00Z. Needs allow_reset."""

    @model_validator(mode="after")
    def _check_test_clock(self) -> Self:
        """Refuse a clock that is not the server's, unless the data are for tests."""
        if self.test_clock is not None and not self.allow_reset:
            raise ValueError("TEST_CLOCK: set ALLOW_RESET=true too, but only on a database for tests")
        return self

    @model_validator(mode="after")
    def _check_issuer(self) -> Self:
        """Refuse an issuer whose tokens could not be verified."""
        if self.token_issuer is None:
            return self
        if self.token_audience is None or self.token_keys_url is None:
            raise ValueError("TOKEN_ISSUER: set TOKEN_AUDIENCE and TOKEN_KEYS_URL too")
        if self.registry_schema is not None and self.token_institution_claim is None:
            raise ValueError("TOKEN_ISSUER: set TOKEN_INSTITUTION_CLAIM too, because REGISTRY_SCHEMA is set")
        url = urlsplit(self.token_keys_url)
        if url.scheme != "https" and not (url.scheme == "http" and url.hostname in {"localhost", "127.0.0.1", "::1"}):
            raise ValueError("TOKEN_KEYS_URL: must begin with https://, or with http:// on loopback")
        return self

    @model_validator(mode="after")
    def _check_roles(self) -> Self:
        """Refuse an owner without a role of the service, to which the owner grants what it needs."""
        if self.migration_database_url is not None and self.service_role is None:
            raise ValueError("MIGRATION_DATABASE_URL: set DATABASE_URL too, with the name of the service's role")
        return self

    @property
    def spool(self) -> Path:
        """The folder where uploads and exports wait."""
        return self.spool_dir or Path(tempfile.gettempdir()) / f"enrollment-service-{os.getuid()}"

    @property
    def public_path(self) -> str:
        """The path of public_url, which begins the links in headers and in the index; empty if there is none."""
        return "" if self.public_url is None else urlsplit(self.public_url).path

    @property
    def served_hosts(self) -> tuple[str, ...]:
        """The names that a Host header may have; empty for the default."""
        if self.public_url is None or not (self.allowed_hosts or self.host in LOOPBACK):
            return self.allowed_hosts
        return (*self.allowed_hosts, urlsplit(self.public_url).hostname or "")

    @property
    def owner_url(self) -> str | None:
        """The URL for migrations and grants."""
        return self.migration_database_url or self.database_url

    @property
    def service_role(self) -> ServiceRole | None:
        """The role that the owner gives its privileges to, as database_url has it; None if it is the owner."""
        if self.migration_database_url is None or self.database_url is None:
            return None
        parts = conninfo_to_dict(self.database_url)
        user, password = parts.get("user"), parts.get("password")
        return None if user is None else ServiceRole(str(user), None if password is None else str(password))

    @property
    def has_two_roles(self) -> bool:
        """Whether the role of the service is not the owner of the tables."""
        role = self.service_role
        return role is not None and conninfo_to_dict(self.migration_database_url or "").get("user") != role.name

    @property
    def zone(self) -> tzinfo:
        """The time zone of the institution."""
        return zone_of(self.time_zone)

    @model_validator(mode="after")
    def _check_nested(self) -> Self:
        for shorter, longer in NESTED:
            inner, outer = getattr(self, shorter), getattr(self, longer)
            if inner >= outer:
                raise ValueError(
                    f"{shorter.upper()} ({inner:g} s) must be below {longer.upper()} ({outer:g} s), which includes it."
                )
        return self
