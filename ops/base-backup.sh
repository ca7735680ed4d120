#!/bin/sh
# Copy a whole server while it runs. With the WAL that it archives from then on, ops/restore-to.sh can restore any instant.
#
#   ops/base-backup.sh 'postgresql://replicator:…@host/postgres' /backups/base-2026-11-26
#
# The role needs REPLICATION. The server needs these settings, so that it archives its WAL (archive_timeout bounds what a
# lost server can lose):
#
#   archive_mode = on
#   archive_command = 'test ! -f /backups/wal/%f && cp %p /backups/wal/%f.partial && mv /backups/wal/%f.partial /backups/wal/%f'
#   archive_timeout = 60
set -eu
url=${1:?name the server by its URL}
folder=${2:?name the folder to write}

pg_basebackup --dbname="$url" --pgdata="$folder.partial" --checkpoint=fast --wal-method=stream
pg_verifybackup "$folder.partial"
mv "$folder.partial" "$folder"
