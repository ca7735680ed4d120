#!/bin/sh
# Restore the schema of one institution from a file of ops/backup.sh, into the same database or into another one.
# What is in the schema is replaced, in one transaction. Stop the service first, or suspend the institution.
#
#   DATABASE_URL=postgresql://owner:…@host/name ops/restore.sh /backups/enrollment.dump
#
# PYTHON is the Python of the service, by default python.
set -eu
file=${1:?name the file to restore}
url=${MIGRATION_DATABASE_URL:-${DATABASE_URL:?set DATABASE_URL}}
schema=${DATABASE_SCHEMA:-public}
contents=$(mktemp)
trap 'rm -f "$contents"' EXIT

# The schema itself is created below, because pg_dump leaves out the schema public.
pg_restore --list "$file" | grep --invert-match ' SCHEMA - ' >"$contents"
{
    echo "SET client_min_messages = warning;"
    echo "DROP SCHEMA IF EXISTS \"$schema\" CASCADE;"
    echo "CREATE SCHEMA \"$schema\";"
    pg_restore --use-list="$contents" --no-owner --no-privileges --file=- "$file" || echo 'the file ended early;'
} | psql --dbname="$url" --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --single-transaction >/dev/null
echo "restored the schema $schema from $file"

# Apply the migrations that are newer than the backup, grant the role of the service what it needs, and check the data.
${PYTHON:-python} -m service migrate
${PYTHON:-python} -m service check
