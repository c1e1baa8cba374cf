#!/usr/bin/env bash
# A Prefect worker that is also a node of the Ray cluster, as Ray's driver must run beside one. This node has no CPUs,
# so that the stages' work goes to the others.
set -euo pipefail
# If either ends, the container ends, and compose restarts both.
trap 'kill $(jobs -p) 2> /dev/null || true; wait' EXIT
trap 'exit 143' TERM INT

ray start --address="$RAYMILL__RAY__ADDRESS" --num-cpus=0 --object-store-memory=$((256 << 20)) --disable-usage-stats --block &
python -m flows.servers.deploy # the work pool, the deployments of prefect.yaml, the automation that ends runs without a heartbeat
prefect worker start --pool raymill --name "$(hostname)" --install-policy never &
wait -n
