#!/usr/bin/env bash
# Write .env from env.example, with a random value for each empty secret. An existing .env is not changed.
set -euo pipefail
cd "$(dirname "$0")"

if [[ -e .env ]]; then
  echo "error: .env is there already; its secrets are those of the databases, so move it away yourself" >&2
  exit 2
fi

umask 077
while IFS= read -r line; do
  case $line in
    \#*) ;;
    *= | *:) line+=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n') ;;
  esac
  printf '%s\n' "$line"
done < env.example > .env.new
mv -n .env.new .env
echo "deploy/compose/.env written, readable by you alone"
