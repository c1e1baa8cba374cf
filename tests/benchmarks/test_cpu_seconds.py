"""CPU seconds by kind of process: nothing that a command starts is left out, and a run starts no more than it needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.processes import in_all
from tasks.core.sections import PROJECT

# In a process of its own: whoever watches is given the orphans from then on.
WATCH = """
import json, subprocess, sys
from dataclasses import asdict
from benchmarks.cpu_seconds import watch
status, wall_s, kinds = watch(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
print(json.dumps({"status": status, "kinds": {name: asdict(kind) for name, kind in kinds.items()}}))
"""
BUSY = "import time\nwhile time.process_time() < 0.5: pass"
# What a run on a laptop needs: the command, Prefect's server, Ray's own seven (raylet, GCS, dashboard, two agents, log
# monitor, autoscaler), a validator, two workers for tasks, two actors of the pool, two trials, a controller, for each
# of two trainings a worker and its synchronisation. Two more may start too early to be of use.
MOST_PROCESSES = 23


def watched(*command: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", WATCH, *command], cwd=PROJECT, capture_output=True, text=True, timeout=500, check=True
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_process_that_outlives_its_parent_is_counted() -> None:
    orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {BUSY!r}]); sys.exit(3)"
    found = watched(sys.executable, "-c", orphan)
    assert found["status"] == 3
    (kind,) = found["kinds"].values()  # type: ignore[attr-defined]
    assert kind["processes"] == 2
    assert kind["cpu_s"] > 0.3


@pytest.mark.slow
def test_a_small_run_starts_no_more_processes_than_it_needs(tmp_path: Path) -> None:
    from benchmarks.cpu_seconds import Kind
    from tasks.sources.synth import synthesize

    synthesize(600, 7, tmp_path / "reviews")
    settings = {
        "storage.root": tmp_path / "data",
        "tracking.uri": f"sqlite:///{tmp_path}/mlflow.db",
        "ray.logical_cpus": 2,
        "tune.trials": 3,
        "tune.concurrent": 2,
        "tune.max_rounds": 20,
        "train.rounds": 10,
        "features.text_score.dimensions": 4096,
        "registry.gates.min_gain_over_linear": "null",
    }
    overrides = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    command = ["-m", "flows.cli.main", "run", "--input", str(tmp_path / "reviews"), *overrides]
    found = watched(sys.executable, *command)
    assert found["status"] == 0
    kinds = {name: Kind(**kind) for name, kind in found["kinds"].items()}  # type: ignore[attr-defined]
    assert in_all(kinds)["processes"] <= MOST_PROCESSES, kinds
