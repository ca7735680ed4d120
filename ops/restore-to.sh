#!/bin/sh
# Make a data folder for PostgreSQL from a base backup and the archived WAL, as it was at an instant or at the end of the WAL.
#
#   ops/restore-to.sh /backups/base-2026-11-26 /backups/wal /var/lib/postgresql/18/main '2026-11-26 14:59:00+00'
#
# Run it as the account of the server, with an empty or missing folder, then start the server on that folder. The server
# replays the WAL and begins a new timeline: the service notices, begins a new epoch of each feed, and cursors from before
# get 410.
set -eu
base=${1:?name the folder of the base backup}
wal=${2:?name the folder of the archived WAL}
data=${3:?name the data folder to make}
instant=${4:-}

if [ -e "$data" ] && [ -n "$(ls -A "$data")" ]; then
    echo "$data is not empty: move it away first" >&2
    exit 1
fi
mkdir -p "$data"
cp -R "$base/." "$data/"
chmod 700 "$data"
{
    echo "restore_command = 'cp $wal/%f %p'"
    echo "recovery_target_timeline = 'latest'"
    if [ -n "$instant" ]; then
        echo "recovery_target_time = '$instant'"
        echo "recovery_target_action = 'promote'"
    fi
} >>"$data/postgresql.auto.conf"
: >"$data/recovery.signal"
echo "start PostgreSQL on $data"
