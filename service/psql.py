"""Open psql on the database of the service, for ``python -m service psql``."""

import os
import signal
import subprocess
from collections.abc import Sequence

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from service.embedded import embedded_server, find_program, find_running
from service.settings import Settings


def open_psql(settings: Settings, arguments: Sequence[str]) -> int:
    """Run psql on the database of the settings and return its exit status.

    If the service is not running, the embedded server is started and stopped when psql ends.
    """
    url = settings.database_url or find_running(settings.data_dir)
    if url is not None:
        return _run(url, settings.database_schema, arguments)
    with embedded_server(settings.data_dir) as url:
        return _run(url, settings.database_schema, arguments)


def _run(url: str, schema: str, arguments: Sequence[str]) -> int:
    environment = {**os.environ, "PGOPTIONS": f"-c search_path={schema}"}
    # Any account of the machine can read the arguments of a process, but not its environment.
    if password := conninfo_to_dict(url).get("password"):
        environment["PGPASSWORD"] = str(password)
    # Ctrl-C cancels a statement in psql, and must not end this process, which gets the signal too.
    signal.signal(signal.SIGINT, lambda *_: None)
    command = [str(find_program("psql")), f"--dbname={make_conninfo(url, password=None)}", *arguments]
    return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603
