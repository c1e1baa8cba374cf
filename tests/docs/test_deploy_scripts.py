"""The shell scripts in deploy/ parse, pass shellcheck, and do what their pages say."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.core.settings import PROJECT

DEPLOY = PROJECT / "deploy"
SCRIPTS = sorted([*DEPLOY.rglob("*.sh"), *DEPLOY.rglob("*.sbatch")])
SBATCH = DEPLOY / "slurm" / "raymill.sbatch"
TIMEOUT_S = 60

# Stand-ins for the commands of a cluster. Those that would run on say who they are, and run on until a signal.
STUBS = {
    "scontrol": 'printf "%s\\n" $NODES',
    "srun": 'echo "$@" > srun.args; echo $RAY_AUTH_MODE:$RAY_AUTH_TOKEN > token; echo $$ > srun.pid; echo > up; '
    "exec sleep 600",
    "python": "cat > /dev/null; read < up; exit $WAITED",
    "raymill": 'echo "$@" > raymill.args; echo $$ > raymill.pid; [[ -n $ENDS ]] && exit $ENDS; echo > running; '
    "exec sleep 600",
}


@pytest.fixture
def job(tmp_path: Path) -> dict[str, str]:
    """The environment of a job's batch script on the first of two nodes."""
    stubs = tmp_path / ".venv" / "bin"
    stubs.mkdir(parents=True)
    for name, body in STUBS.items():
        (stubs / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (stubs / name).chmod(0o755)
    os.mkfifo(tmp_path / "up")
    slurm = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "4711"}
    ours = {"NODES": "n1 n2", "HEAD_IP": "10.1.2.3", "WAITED": "0", "ENDS": "0"}
    return {"PATH": os.environ["PATH"], **slurm, **ours}


def start(job: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    folder = job["SLURM_SUBMIT_DIR"]
    return subprocess.Popen(
        ["bash", str(SBATCH), *arguments],
        cwd=folder,
        env=job,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def assert_gone(pid_file: Path) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_there_are_scripts_to_check() -> None:
    assert {"new-env.sh", "init-databases.sh", "worker.sh", "raymill.sbatch", "deep.sbatch", "environment.sh"} == {
        script.name for script in SCRIPTS
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_parse_and_pass_shellcheck(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    checked = subprocess.run([Path(sys.executable).with_name("shellcheck"), script], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    if script.name != "environment.sh":  # it is read by a shell that goes on
        assert "set -euo pipefail" in script.read_text()


def test_secrets_are_made_once_and_are_for_their_owner_alone(tmp_path: Path) -> None:
    for name in ("new-env.sh", "env.example"):
        shutil.copy(DEPLOY / "compose" / name, tmp_path)
    subprocess.run([tmp_path / "new-env.sh"], check=True, capture_output=True)
    file = tmp_path / ".env"
    before = file.read_text()
    values = [line.partition("=")[2] for line in before.splitlines() if line and not line.startswith("#")]
    assert len(set(values)) == 7
    assert all(len(value) >= 48 and value.replace(":", "").isalnum() for value in values)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = subprocess.run([tmp_path / "new-env.sh"], capture_output=True, text=True)
    assert again.returncode == 2
    assert file.read_text() == before


@pytest.mark.parametrize("status", ["0", "1", "2"])
def test_a_job_ends_as_its_run_does_and_leaves_nothing_behind(job: dict[str, str], tmp_path: Path, status: str) -> None:
    job["ENDS"] = status
    process = start(job, "--input", "/reviews", "--dataset", "mine.yaml")
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == int(status)
    arguments = f"run --set ray.address=10.1.2.3:24711 --set storage.root={tmp_path}/data"
    assert (tmp_path / "raymill.args").read_text() == f"{arguments} --input /reviews --dataset mine.yaml\n"
    assert "--nodes=2 --ntasks=2 --ntasks-per-node=1" in (tmp_path / "srun.args").read_text()
    assert_gone(tmp_path / "srun.pid")


def test_a_cancelled_job_ends_the_run_and_the_cluster(job: dict[str, str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "running")
    process = start(job | {"ENDS": ""})
    (tmp_path / "running").read_text()  # returns when the run is under way
    process.terminate()
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 143
    assert_gone(tmp_path / "raymill.pid")
    assert_gone(tmp_path / "srun.pid")


def test_a_cluster_that_does_not_come_up_fails_the_job_before_the_run(job: dict[str, str], tmp_path: Path) -> None:
    process = start(job | {"WAITED": "1"})
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert not (tmp_path / "raymill.args").exists()
    assert_gone(tmp_path / "srun.pid")


def test_a_head_that_others_cannot_reach_is_said_at_once(job: dict[str, str], tmp_path: Path) -> None:
    process = start(job | {"HEAD_IP": "127.0.0.1"})
    _, said = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2
    assert "set HEAD_IP" in said
    assert not (tmp_path / "srun.args").exists()


def test_each_job_has_a_token_of_its_own_that_no_command_line_shows(job: dict[str, str], tmp_path: Path) -> None:
    tokens = set()
    for _ in range(2):
        start(job).communicate(timeout=TIMEOUT_S)
        mode, _, token = (tmp_path / "token").read_text().strip().partition(":")
        assert mode == "token"
        assert len(token) == 64
        assert token not in (tmp_path / "srun.args").read_text() + (tmp_path / "raymill.args").read_text()
        tokens.add(token)
    assert len(tokens) == 2


def test_a_text_model_is_trained_by_torchrun_on_each_node(job: dict[str, str], tmp_path: Path) -> None:
    stub = tmp_path / ".venv" / "bin" / "srun"
    stub.write_text('#!/usr/bin/env bash\necho "$@" > srun.args; echo $OMP_NUM_THREADS $PYTHONPATH > srun.env\n')
    script = ["bash", str(DEPLOY / "slurm" / "deep.sbatch"), "--set", "parallel.zero=2"]
    environment = job | {"RANKS": "4", "SLURM_CPUS_PER_TASK": "16"}
    subprocess.run(script, cwd=tmp_path, env=environment, check=True, timeout=TIMEOUT_S)
    said = (tmp_path / "srun.args").read_text()
    assert "--nodes=2 --ntasks=2 --ntasks-per-node=1 torchrun --nnodes=2 --nproc-per-node=4" in said
    assert said.endswith("--rdzv-endpoint=10.1.2.3:24711 -m tasks.deep.launch --set parallel.zero=2\n")
    assert (tmp_path / "srun.env").read_text() == f"4 {tmp_path}\n"
    refused = subprocess.run(script, cwd=tmp_path, env=job | {"HEAD_IP": "127.0.0.1"}, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "set HEAD_IP" in refused.stderr
