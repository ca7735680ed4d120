"""Parse the command line, run a command and report its errors.

Each command imports what it needs when it runs: importing the HTTP API takes most of a second.
"""

import argparse
import asyncio
import atexit
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfoNotFoundError

from pydantic import ValidationError

from service import __version__, logs
from service.embedded import embedded_server, find_running
from service.errors import OperatorError
from service.settings import Settings, explain, zone_of
from service.web.auth import SCOPES
from service.workers import run, stop_signals

MAX_WORKERS = 64
"""Each worker has POOL_SIZE connections; more workers need more connections than PostgreSQL usually allows."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status."""
    given = parse(sys.argv[1:] if arguments is None else arguments)
    # The last garbage collection would search all that was imported: a fifth of the time of a short command.
    atexit.register(gc.freeze)
    # Each stop signal raises KeyboardInterrupt, so that the embedded server is stopped rather than orphaned.
    for number in stop_signals():
        signal.signal(number, signal.default_int_handler)
    try:
        settings = Settings()
        logs.configure(settings.log_format, settings.log_level)
        with (
            contextlib.nullcontext(settings)
            if given.run in WITHOUT_DATABASE
            else database(settings, given.run in BESIDE) as found
        ):
            status: int = given.run(found, given)
        sys.stdout.flush()
    except OperatorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ValidationError as error:
        for sentence in explain(error):
            print(f"error: {sentence}", file=sys.stderr)
        return 1
    except OSError as error:
        # At exit Python would flush the rest of its buffer and fail again (Python manual, "Note on SIGPIPE").
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the parsed command line; its ``run`` takes the settings and the parsed command line."""
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description="The system of record for students, courses and enrollments.",
        epilog="The default command is serve. Settings are read from the environment; docs/settings.md lists them.",
    )
    parser.add_argument("--version", action="version", version=f"enrollment-service {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True)

    command = add(commands, "serve", run_serve, "serve HTTP until Ctrl-C, SIGTERM or SIGHUP")
    command.add_argument("--workers", type=_count, default=1, metavar="N", help="processes that share the port (Linux)")
    command = add(commands, "migrate", run_migrate, "apply the missing migrations to the schema of the database")
    command.add_argument("--to", metavar="NAME", help="make this the newest migration: roll back those after it")
    command.add_argument(
        "--discard-data", action="store_true", help="roll back even if a table or a column to drop has values"
    )
    command = add(
        commands,
        "check",
        run_check,
        "verify every invariant and report violations; the exit status is 1 if there are any",
    )
    command.add_argument("--all", action="store_true", help="check every institution of the registry")
    command = add(commands, "demo", run_demo, "fill an empty database with a campus and a registration day")
    command.add_argument(
        "--size", choices=["small", "large"], default="small", help="200 students and 30 courses, or 20,000 and 800"
    )
    command.add_argument("--serve", action="store_true", help="then serve; if the database is not empty, only serve")
    command = add(
        commands, "grants", run_grants, "print the SQL that gives a role what the service needs, and nothing else"
    )
    command.add_argument("role", metavar="ROLE", help="the role of DATABASE_URL")
    command.add_argument("--apply", action="store_true", help="run the SQL with MIGRATION_DATABASE_URL instead")
    command = add(commands, "psql", run_psql, "open psql on the database, whether or not the service is running")
    command.add_argument("arguments", nargs="*", metavar="ARG", help="arguments for psql, after --")
    command = add(
        commands, "reset", run_reset, "delete all data of an institution except its API keys; needs ALLOW_RESET=true"
    )
    add_institution(command)
    command = add(commands, "seed", run_seed, "make the requests in a file of JSON Lines, in order")
    command.add_argument("file", metavar="FILE", help='lines such as {"student": {…}}; - is standard input')
    add_institution(command)
    add_interchange_commands(commands)
    add_key_commands(commands)
    add_institution_commands(commands)
    feed = commands.add_parser(
        "feed", help="feed renew: start a new epoch, which invalidates all cursors"
    ).add_subparsers(title="commands", dest="command", required=True)
    add(feed, "renew", run_renew, "start a new epoch, which invalidates all cursors")

    options_only = not arguments or (arguments[0].startswith("-") and arguments[0] not in {"-h", "--help", "--version"})
    return parser.parse_args(["serve", *arguments] if options_only else arguments)


def add(
    commands: Any, name: str, run: Callable[[Settings, argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    """Add a command, with a text for its help, and return its parser."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(run=run)
    return command


def add_interchange_commands(commands: Any) -> None:
    """Add the commands that import and export files."""
    command = add(
        commands,
        "import",
        run_import,
        "import a folder, a zip or a file of CSV: show a plan, then apply it if confirmed",
    )
    command.add_argument("path", type=Path, metavar="PATH", help="OneRoster CSV 1.1 or 1.2, or plain CSV")
    command.add_argument("--source", default="import", metavar="NAME", help="whose files they are; by default import")
    command.add_argument("--dry-run", action="store_true", help="only show the plan")
    command.add_argument("--yes", action="store_true", help="apply the plan without a question")
    command.add_argument("--strict", action="store_true", help="apply nothing if any row is refused")
    command.add_argument(
        "--as-recorded", action="store_true", help="seat students by overrides where the rules would refuse them"
    )
    command.add_argument(
        "--threshold", type=_percent, default=10, metavar="PERCENT", help="most rows of a kind to drop; by default 10"
    )
    command.add_argument("--no-drop", action="store_true", help="drop nothing that the files no longer list")
    command.add_argument("--encoding", metavar="NAME", help="such as windows-1252; by default UTF-8")
    command.add_argument("--report", type=Path, metavar="FOLDER", help="where to write the refused rows")
    add_institution(command)
    command = add(commands, "export", run_export, "write everything, or what has changed, into a zip of files")
    command.add_argument("path", type=Path, metavar="FILE", help="the zip to write, which must not exist")
    command.add_argument(
        "--format",
        required=True,
        choices=["plain", "ndjson", "canvas", "oneroster-1.1", "oneroster-1.2"],
        help="what the files look like",
    )
    command.add_argument(
        "--after", type=_position, metavar="POSITION", help="only what has changed after this position of the feed"
    )
    add_institution(command)


def add_key_commands(top: Any) -> None:
    """Add the commands about API keys."""
    commands = top.add_parser("keys", help="create, list, rotate and revoke API keys").add_subparsers(
        title="commands", dest="command", required=True
    )
    command = add(commands, "create", run_create_key, "create an API key and print it")
    command.add_argument("--name", required=True, help="whose key it is; events record it as the actor")
    command.add_argument(
        "--scope", required=True, action="append", choices=SCOPES, help="what its holder may do; give it once for each"
    )
    add_institution(command)
    command.add_argument("--expires", type=_instant, metavar="TIME", help="such as 2027-01-01 or 2027-01-01T00:00:00Z")
    add_institution(add(commands, "list", run_list_keys, "list the API keys, without their texts"))
    command = add(
        commands, "rotate", run_rotate_key, "give an API key a new secret, print it, and keep the one before for a day"
    )
    command.add_argument("id", type=int)
    command.add_argument(
        "--overlap", type=int, default=86400, metavar="SECONDS", help="how long the one before is valid"
    )
    add_institution(command)
    command = add(commands, "revoke", run_revoke_key, "revoke an API key, which cannot be undone")
    command.add_argument("id", type=int)
    add_institution(command)


def add_institution_commands(top: Any) -> None:
    """Add the commands about institutions."""
    commands = top.add_parser(
        "institutions", help="create, list, suspend, resume, move and drop institutions; needs REGISTRY_SCHEMA"
    ).add_subparsers(title="commands", dest="command", required=True)
    command = add(commands, "create", run_create_institution, "create an institution with a schema of its own")
    command.add_argument(
        "name", type=_institution, help="lower-case letters, digits and hyphens, such as north-college"
    )
    command.add_argument("--display-name", metavar="TEXT", help="its full name; by default its name")
    command.add_argument(
        "--time-zone", type=_time_zone, metavar="ZONE", help="such as Europe/Berlin; by default TIME_ZONE"
    )
    command.add_argument("--schema", help="an existing schema of the service to adopt, with its rows")
    add(commands, "list", run_list_institutions, "list the institutions")
    for verb, (_, text) in STATES.items():
        add(commands, verb, run_set_state, text).add_argument("name", type=_institution)
    command = add(
        commands, "move", run_move_institution, "move an institution to another node of a Citus while it is in use"
    )
    command.add_argument("name", type=_institution)
    command.add_argument(
        "node", type=_node, metavar="HOST[:PORT]", help="a node, as citus_get_active_worker_nodes() names it"
    )
    command = add(
        commands, "drop", run_drop_institution, "delete an institution with all its data, which cannot be undone"
    )
    command.add_argument("name", type=_institution)
    command.add_argument("--yes", action="store_true", required=True, help="confirm that its data are deleted")


STATES = {
    "suspend": ("suspended", "refuse all calls of an institution"),
    "read-only": ("read_only", "refuse all changes of an institution"),
    "resume": ("active", "accept all calls of an institution again"),
}
"""The commands that change the state of an institution, each with the state and its help."""


def add_institution(command: argparse.ArgumentParser) -> None:
    """Add the option that names an institution."""
    command.add_argument(
        "--institution", type=_institution, metavar="NAME", help="its institution, if REGISTRY_SCHEMA is set"
    )


def _institution(text: str) -> str:
    from service.registry import INSTITUTION_NAME

    if not INSTITUTION_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            "a name of up to 50 lower-case letters, digits and hyphens that begins with a letter"
        )
    return text


def _node(text: str) -> tuple[str, int]:
    host, _, port = text.partition(":")
    if not host or not (port or "5432").isdecimal():
        raise argparse.ArgumentTypeError("write HOST or HOST:PORT, such as worker1:5432")
    return host, int(port or 5432)


def _time_zone(text: str) -> str:
    try:
        zone_of(text)
    except (ValueError, OSError, ZoneInfoNotFoundError) as error:
        raise argparse.ArgumentTypeError("the IANA name of a time zone, such as Europe/Berlin") from error
    return text


def _position(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError("must be a position of the feed, which an earlier export has printed")
    return int(text)


def _percent(text: str) -> int:
    if not text.isdecimal() or int(text) > 100:
        raise argparse.ArgumentTypeError("must be a whole number from 0 to 100")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {MAX_WORKERS}")
    return int(text)


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError("a date or a time such as 2027-01-01T00:00:00Z") from error
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


@contextlib.contextmanager
def database(settings: Settings, beside: bool) -> Iterator[Settings]:
    """Yield settings with a database URL; without DATABASE_URL, run the embedded server while the context lasts.

    With ``beside``, the embedded server of a running service is used if there is one.
    """
    url = settings.database_url or (find_running(settings.data_dir) if beside else None)
    if url is not None:
        yield settings.model_copy(update={"database_url": url})
        return
    with embedded_server(settings.data_dir) as url:
        yield settings.model_copy(update={"database_url": url})


def run_serve(settings: Settings, given: argparse.Namespace) -> int:
    """Serve until a stop signal arrives."""
    # The objects of a start stay as long as the process: searching them for garbage took an eighth of the time.
    gc.disable()
    from service.serving import serve

    return serve(settings, given.workers)


def run_migrate(settings: Settings, given: argparse.Namespace) -> int:
    """Apply the missing migrations and print their names; with a registry, those of every institution."""
    from service.migrate import migrate
    from service.registry import commands as institution_commands

    assert settings.owner_url is not None
    if given.command == "migrate" and given.to is not None:
        return run_migrate_to(settings, given)
    if settings.registry_schema is not None:
        return run(_done(institution_commands.migrate_all(settings)))
    applied = migrate(
        settings.owner_url,
        schema=settings.database_schema,
        timeout=settings.migrate_timeout,
        role=settings.service_role,
    )
    print("\n".join(f"applied {name}" for name in applied) or "nothing to do: the schema is up to date")
    return 0


def run_migrate_to(settings: Settings, given: argparse.Namespace) -> int:
    """Make a migration the newest one, and print the names of those that were applied or rolled back."""
    from service.migrate import migrate_to
    from service.registry import commands as institution_commands

    if settings.registry_schema is not None:
        return run(_done(institution_commands.migrate_all_to(settings, given.to, discard_data=given.discard_data)))
    assert settings.owner_url is not None
    done = migrate_to(
        settings.owner_url,
        given.to,
        schema=settings.database_schema,
        timeout=settings.migrate_timeout,
        discard_data=given.discard_data,
    )
    institution_commands.show_migrations(*done)
    return 0


def run_check(settings: Settings, given: argparse.Namespace) -> int:
    """Verify every invariant; return 1 if one is violated."""
    from service.check import check, check_all

    return run(check_all(settings) if given.all else check(settings))


def run_demo(settings: Settings, given: argparse.Namespace) -> int:
    """Fill an empty database; return 1 if it is not empty (without ``--serve``), or if the check finds a violation."""
    from service.demo import fill, find_calls

    # The campus is one institution, whether or not there is a registry.
    settings = settings.model_copy(update={"registry_schema": None})
    run_migrate(settings, given)
    status = run(fill(settings, given.size, again=given.serve))
    if status or not given.serve:
        return status
    from service.serving import serve

    return serve(settings, calls=asyncio.run(find_calls(settings)))


def run_grants(settings: Settings, given: argparse.Namespace) -> int:
    """Print the privileges of a role as SQL, or apply them."""
    from service import grants
    from service.migrate import apply_grants
    from service.registry import commands as institution_commands

    schemas = {settings.database_schema: grants.INSTITUTION}
    if settings.registry_schema is not None:
        with database(settings, beside=True) as found:
            institutions = asyncio.run(institution_commands.list_schemas(found))
        schemas = {settings.registry_schema: grants.REGISTRY, **dict.fromkeys(institutions, grants.INSTITUTION)}
    for schema, privileges in schemas.items():
        if not given.apply:
            print(grants.script(schema, given.role, privileges), end="")
            continue
        with database(settings, beside=True) as found:
            assert found.owner_url is not None
            timeout = found.migrate_timeout
            apply_grants(found.owner_url, given.role, schema=schema, privileges=privileges, timeout=timeout)
        print(f"the role {given.role} has what the service needs in the schema {schema}")
    return 0


def run_psql(settings: Settings, given: argparse.Namespace) -> int:
    """Open psql; return its exit status."""
    from service.psql import open_psql

    return open_psql(settings, given.arguments)


def run_reset(settings: Settings, given: argparse.Namespace) -> int:
    """Delete all data of an institution."""
    from service.reset import reset

    return run(_done(reset(settings, given.institution)))


def run_seed(settings: Settings, given: argparse.Namespace) -> int:
    """Make the requests in a file."""
    from service.seed import seed

    # The log of a service would be mixed with the result of the command.
    logs.configure(settings.log_format, "ERROR")
    return run(_done(seed(settings, given.institution, given.file)))


def run_import(settings: Settings, given: argparse.Namespace) -> int:
    """Import files."""
    from service.interchange import commands as interchange_commands

    logs.configure(settings.log_format, "ERROR")
    return run(interchange_commands.run_import(settings, given))


def run_export(settings: Settings, given: argparse.Namespace) -> int:
    """Write an export."""
    from service.interchange import commands as interchange_commands

    return run(interchange_commands.run_export(settings, given))


def run_create_key(settings: Settings, given: argparse.Namespace) -> int:
    """Create an API key."""
    from service.auth import commands as key_commands

    return run(_done(key_commands.create(settings, given.institution, given.name, given.scope, given.expires)))


def run_list_keys(settings: Settings, given: argparse.Namespace) -> int:
    """List the API keys."""
    from service.auth import commands as key_commands

    return run(_done(key_commands.list_all(settings, given.institution)))


def run_rotate_key(settings: Settings, given: argparse.Namespace) -> int:
    """Give an API key a new secret."""
    from service.auth import commands as key_commands

    overlap = timedelta(seconds=given.overlap)
    return run(_done(key_commands.rotate(settings, given.institution, given.id, overlap)))


def run_revoke_key(settings: Settings, given: argparse.Namespace) -> int:
    """Revoke an API key."""
    from service.auth import commands as key_commands

    return run(_done(key_commands.revoke(settings, given.institution, given.id)))


def run_create_institution(settings: Settings, given: argparse.Namespace) -> int:
    """Create an institution."""
    from service.registry import commands as institution_commands

    made = institution_commands.create(settings, given.name, given.display_name, given.time_zone, given.schema)
    return run(_done(made))


def run_list_institutions(settings: Settings, _given: argparse.Namespace) -> int:
    """List the institutions."""
    from service.registry import commands as institution_commands

    return run(_done(institution_commands.list_all(settings)))


def run_set_state(settings: Settings, given: argparse.Namespace) -> int:
    """Suspend or resume an institution, or make it read-only."""
    from service.registry import commands as institution_commands

    return run(_done(institution_commands.set_state(settings, given.name, STATES[given.command][0])))


def run_move_institution(settings: Settings, given: argparse.Namespace) -> int:
    """Move an institution to another node of a Citus."""
    from service.registry import commands as institution_commands

    host, port = given.node
    return run(_done(institution_commands.move(settings, given.name, host, port)))


def run_drop_institution(settings: Settings, given: argparse.Namespace) -> int:
    """Drop an institution."""
    from service.registry import commands as institution_commands

    return run(_done(institution_commands.drop(settings, given.name)))


async def _done(work: Coroutine[Any, Any, None]) -> int:
    """Do work and return the exit status of success."""
    await work
    return 0


def run_renew(settings: Settings, _given: argparse.Namespace) -> int:
    """Start a new epoch of the feed."""
    return run(_renew(settings))


async def _renew(settings: Settings) -> int:
    from service.database import renew_epoch

    epoch = await renew_epoch(settings)
    print(f"the epoch of the feed is now {epoch}; earlier cursors are invalid")
    return 0


BESIDE = (
    run_reset,
    run_seed,
    run_import,
    run_export,
    run_create_key,
    run_list_keys,
    run_rotate_key,
    run_revoke_key,
    run_create_institution,
    run_list_institutions,
    run_set_state,
    run_move_institution,
    run_drop_institution,
)
"""Commands that may run beside a service with an embedded database."""

WITHOUT_DATABASE = (run_grants, run_psql)
"""Commands that open a database only if they need one."""

if __name__ == "__main__":
    sys.exit(main())
