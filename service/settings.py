"""The only reader of the environment, and every limit of the service with the reason for its number."""

from pathlib import Path

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What an operator may set: each field is read from the environment variable of its name in capitals.

    Times are in seconds, sizes in bytes.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    host: str = "127.0.0.1"
    """Loopback unless an operator says otherwise: nothing authenticates a caller in this stage."""

    port: int = Field(default=8080, ge=0, le=65535)
    """The customary port of an unprivileged HTTP service; 0 takes a free one."""

    listen_backlog: PositiveInt = 4096
    """Connections that wait to be taken: a rush comes within a second. Linux takes no more without net.core.somaxconn."""

    database_url: str | None = None
    """PostgreSQL 15 or newer, as postgresql://user:password@host:port/name; without one the embedded server serves."""

    database_schema: str = Field(default="public", pattern=r"^[a-z_][a-z0-9_]{0,62}$")
    """One schema holds one institution."""

    data_dir: Path = Path(".data")
    """Where the embedded server keeps its files between runs."""

    migrate_on_start: bool = True
    """Off where a job of its own migrates before the replicas start."""

    pool_size: PositiveInt = 10
    """One connection writes at a time, the others read; a PostgreSQL with its default 100 carries ten processes."""

    acquire_timeout: PositiveFloat = 2.0
    """A caller who has waited this long for a connection is better served by a 503 and another try."""

    statement_timeout: PositiveFloat = 5.0
    """No statement of the service takes a tenth of this on a million rows; the server gives up first."""

    command_timeout: PositiveFloat = 7.0
    """Above statement_timeout, so that it only ever ends a statement whose server no longer answers."""

    lock_timeout: PositiveFloat = 4.0
    """Below statement_timeout, so that a wait for the writer's lock is told apart from a slow statement."""

    idle_in_transaction_timeout: PositiveFloat = 5.0
    """How long a frozen process can hold the writer's lock against all others."""

    admission_seconds: PositiveFloat = 2.0
    """A request that is expected to wait longer for its turn gets 503 at once: people wait a few seconds for an answer."""

    write_timeout: PositiveFloat = 10.0
    """How long a batch or a bulk request may wait until the others of its process have written."""

    batching: bool = True
    """Whether requests that arrive together share a transaction or a statement; off only to compare."""

    batch_pairs: PositiveInt = 512
    """How many pairs of student and course one transaction takes: more of them make it longer, not faster."""

    promotions_per_transaction: PositiveInt = 1000
    """How many waitlisted students one transaction judges: it holds the writer's lock for some tenths of a second."""

    batch_reads: PositiveInt = 128
    """How many single things one statement reads for as many callers."""

    queue_limit: PositiveInt = 8192
    """How many requests may wait: those of two seconds at 4,000 a second."""

    connect_timeout: PositiveFloat = 5.0
    """A server on the same network answers within milliseconds, or is not there."""

    retry_ceiling: PositiveFloat = 5.0
    """The longest pause between two tries to reach a database that is not there yet: it doubles up to this."""

    migrate_timeout: PositiveFloat = 600.0
    """How long a start waits for another process to finish migrating; an index over 10⁷ rows takes minutes."""

    check_timeout: PositiveFloat = 1800.0
    """How long `check` may hold its snapshot, which keeps the server from cleaning up; 10⁷ events take some 5 minutes."""

    sweep_interval: PositiveFloat = 60.0
    """How late a promotion may come that only the clock brings about, such as a hold that runs out."""

    poll_interval: PositiveFloat = 0.2
    """How late a waiting reader of the feed may learn of an event; one question a process, however many wait."""

    body_limit: PositiveInt = 1024 * 1024
    """Ten times the largest request that makes sense: 1,000 items of a bulk request are some 100 KiB."""

    body_members: PositiveInt = 10_000
    """Twice the members of the largest bulk request; each unknown one would be an error that takes time to list."""

    body_timeout: PositiveFloat = 10.0
    """A body under body_limit arrives within this on a poor mobile line; a slower one only holds a connection."""

    peer_connections: NonNegativeInt = 0
    """Connections that one address may have, 0 for no limit: behind a load balancer all callers have its address."""

    header_timeout: PositiveFloat = 15.0
    """A caller sends the header of its first request within milliseconds; a slower one only holds a connection."""

    send_timeout: PositiveFloat = 30.0
    """A caller takes an answer of 500 items within this on a poor mobile line; a slower one only holds memory."""

    keepalive_timeout: PositiveFloat = 75.0
    """Above the 60 s of common load balancers, so that it is they who close idle connections."""

    drain_seconds: float = Field(default=0.0, ge=0)
    """How long to say "not ready" before the listener closes: set it to a load balancer's check interval."""

    linger_seconds: float = Field(default=1.0, ge=0)
    """How long, once the listener is closed, a request on an open connection is still answered, with Connection: close."""

    shutdown_timeout: PositiveFloat = 8.0
    """What is in flight may take this long to finish; below the 10 s after which `docker stop` kills."""
