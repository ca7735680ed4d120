#!/bin/sh
# Back up the schema of one institution into a file, from one snapshot, while the service runs.
#
#   DATABASE_URL=postgresql://owner:…@host/name ops/backup.sh /backups/enrollment.dump
#
# DATABASE_SCHEMA names the schema, as for the service. The programs of PostgreSQL must not be older than the server.
set -eu
file=${1:?name the file to write}
url=${MIGRATION_DATABASE_URL:-${DATABASE_URL:?set DATABASE_URL}}
schema=${DATABASE_SCHEMA:-public}

# Privileges are not part of it: the restore grants those of the version that restores.
pg_dump --dbname="$url" --schema="$schema" --format=custom --no-owner --no-privileges --file="$file.partial"
# A dump that can't be read to its end is no backup.
pg_restore --file=/dev/null "$file.partial"
mv "$file.partial" "$file"
echo "backed up the schema $schema into $file ($(wc -c <"$file") bytes)"
