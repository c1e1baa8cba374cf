# shellcheck shell=bash
# Every shell on the cluster's nodes reads this, from ~/.bashrc (see cluster.yaml).
export PATH="$HOME/venv/bin:$PATH"
export RAY_AUTH_MODE=token # the token is in ~/.ray/auth_token
export RAY_USAGE_STATS_ENABLED=0
export RAY_num_workers_soft_limit=8 # idle workers kept for the next stage: docs/clusters.md
export RAYMILL__RAY__ADDRESS=auto
export RAYMILL__STORAGE__ROOT=/shared/raymill
# export RAYMILL__TRACKING__URI=http://mlflow.example.internal:5000
# export PREFECT_API_URL=http://prefect.example.internal:4200/api
