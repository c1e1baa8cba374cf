#!/usr/bin/env bash
# One role and one database for each of the two servers. PostgreSQL's image runs it once, on an empty volume.
set -euo pipefail

psql --username postgres --no-psqlrc --set ON_ERROR_STOP=1 \
  --set prefect_password="$PREFECT_DB_PASSWORD" --set mlflow_password="$MLFLOW_DB_PASSWORD" <<'SQL'
CREATE ROLE prefect LOGIN PASSWORD :'prefect_password';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow_password';
CREATE DATABASE prefect OWNER prefect;
CREATE DATABASE mlflow OWNER mlflow;
REVOKE CONNECT ON DATABASE prefect, mlflow FROM PUBLIC;
\connect prefect
CREATE EXTENSION IF NOT EXISTS pg_trgm;
SQL
