#!/usr/bin/env bash
# A Prefect worker that is a node of the Ray cluster: Ray takes a driver only where one of its nodes runs. This node
# brings no CPU, so that the stages' work goes to the others.
set -euo pipefail
# Whichever ends first ends the container, and compose starts it again with both.
trap 'kill $(jobs -p) 2> /dev/null || true; wait' EXIT
trap 'exit 143' TERM INT

ray start --address="$RAYMILL__RAY__ADDRESS" --num-cpus=0 --object-store-memory=$((256 << 20)) --disable-usage-stats --block &
python -m flows.servers.deploy # the work pool, what prefect.yaml says, the automation that ends runs nobody hears of
prefect worker start --pool raymill --name "$(hostname)" --install-policy never &
wait -n
