"""A training on a cluster that its driver gives up: its workers end, although the driver goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.killed_runs import run_script
from tests.support.ray_nodes import Nodes

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.nightly]
pytest.importorskip("torch", reason="the extra deep is not installed")

RUN = """
import json
import os
import sys
import threading
from pathlib import Path

import psutil
from ray import train

from tasks.engines import cluster, ray_private, ray_torch
from tasks.settings import load_settings


def work(given):
    given["pid"].write_text(str(os.getpid()))
    threading.Event().wait()


if __name__ == "__main__":
    root = Path(sys.argv[1])
    pid, workers = root / "pid", []
    cluster.start(load_settings().ray, root)
    trainer = ray_private.lean_trainer(own=cluster.is_own())(
        work,
        train_loop_config={"pid": pid},
        scaling_config=train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.5}),
        run_config=train.RunConfig(name="train", storage_path=str(root / "ray")),
    )

    def interrupt():
        if pid.exists() and (said := pid.read_text()):
            workers.append(psutil.Process(int(said)))
            raise KeyboardInterrupt

    try:
        ray_torch._watched(trainer.fit, interrupt)
    except KeyboardInterrupt:
        _, alive = psutil.wait_procs(workers, timeout=30)
    (root / "said.json").write_text(json.dumps({"own": cluster.is_own(), "began": len(workers), "alive": len(alive)}))
    cluster.stop()
"""


def test_on_a_cluster_an_interrupt_ends_the_workers_too(tmp_path: Path) -> None:
    with Nodes() as nodes:
        nodes.start(cpus=2)
        said = run_script(RUN, tmp_path, environment=nodes.environment)
    assert said == {"own": False, "began": 1, "alive": 0}
