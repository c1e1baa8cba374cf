"""Nodes of a cluster lost in the middle of every stage that works on them: the run gives the same digests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.core.sections import PROJECT
from tasks.sources.synth import synthesize

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(2400)]

SETTINGS = [
    "tune.trials=3",
    "tune.concurrent=1",  # trials end in the order they began in: the search too can be compared
    "tune.max_rounds=20",
    "train.workers=2",  # by default one for each node: another number finds other cuts, so another model
    "train.rounds=20",
    "train.checkpoint_rounds=3",
    "features.text_score.dimensions=4096",
    "features.text_score.borders=[0.3,0.6]",
    "embeddings.enabled=true",
    "pack_tokens.enabled=true",
    "retries.first_delay_s=1",
]

# The stages whose workers write files, and the search; pack-tokens fills ranges of one file.
HIT = {"ingest", "clean", "describe", "near-duplicates", "count-words", "tokenize", "language-model", "embeddings"}
HIT |= {"features", "split", "train", "tune", "refit", "evaluate"}

# Python runs this when a worker starts. The first worker of a stage that is about to rename a finished file kills its
# node and itself. The markers name the stages that lost a node.
KILL = """
import os
import signal

rename = os.replace


def replace(source, target, **given):
    before, snapshots, place = os.fspath(target).partition("/snapshots/")
    if snapshots:
        try:
            os.close(os.open(os.environ["LOST"] + "/" + place.split("/")[0], os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            with open(f"/proc/{os.getppid()}/comm") as parent:
                assert parent.read().strip() == "raylet"
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target, **given)


os.replace = replace
"""

# A head without CPUs, as in KubeRay, and two worker nodes. In a search, whose trials write no files, the node that runs
# the trials is killed when the first trial has ended. A lost node is replaced before the next stage begins, and stages
# side by side, of which each loses one, have one more.
RUN = """
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from tests.support.ray_nodes import Nodes

NODES = Nodes()
LOST = Path(os.environ["LOST"])
SIDE_BY_SIDE = ("count-words", "tokenize", "train", "tune", "evaluate", "package", "prove", "reference")


class Storm:
    def __init__(self):
        self.failed_stages = []

    def started(self, stage):
        while sum(node.lives for node in NODES.nodes) < 1 + 2 + (stage in SIDE_BY_SIDE):
            NODES.start(2, env=HOOK)

    def progressed(self, progress):
        marker = LOST / "tune"
        if progress.stage == "tune" and not marker.exists():
            trying = [n for n in NODES.nodes if any(p.name().startswith("ray::Trial") for p in n.processes())]
            marker.touch()
            trying[0].kill()

    def ended(self, row):
        pass

    def failed(self, stage, error):
        self.failed_stages.append([stage, type(error).__name__, str(error)])


if __name__ == "__main__":
    HOOK = {"PYTHONPATH": sys.argv[2], "LOST": str(LOST)}
    with NODES:
        NODES.start(0)
        os.environ.update(NODES.environment)
        from flows.run import environment
        from flows.servers.temporary_server import start_if_needed

        environment.prepare()
        server = start_if_needed()
        server.wait()
        from flows.etl_train import etl_train
        from flows.run.context import VIEW
        from tasks.engines import cluster

        view = Storm()
        VIEW.set(view)
        told = {"stages": []}
        try:
            told |= etl_train(sys.argv[3], None, overrides=sys.argv[5:]).to_json()
        finally:
            told |= {"lost": sorted(p.name for p in LOST.iterdir()), "failed": view.failed_stages}
            Path(sys.argv[4]).write_text(json.dumps(told))
            cluster.stop()  # before the head goes: Ray ends a driver whose head is lost
"""


def settings(root: Path) -> list[str]:
    return [f"storage.root={root}", f"tracking.uri=sqlite:///{root}/mlflow.db", *SETTINGS]


def undisturbed(sample: Path, root: Path) -> dict[str, str]:
    """Digests of a run in a local session."""
    root.mkdir()
    command = [sys.executable, "-m", "flows.cli.main", "run", "--input", str(sample), "--json", str(root / "run.json")]
    command += [f"--set={setting}" for setting in settings(root)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return digests(json.loads((root / "run.json").read_text())["stages"])


def digests(stages: list[dict[str, Any]]) -> dict[str, str]:
    return {s["stage"]: s["digest"] for s in stages if s["digest"]}


def test_a_node_lost_in_each_stage_changes_no_digest(tmp_path: Path) -> None:
    sample, root, hook, lost = (tmp_path / name for name in ("sample", "stormy", "hook", "lost"))
    synthesize(3000, 7, sample)
    for folder in (root, hook, lost):
        folder.mkdir()
    (hook / "sitecustomize.py").write_text(KILL)
    (tmp_path / "run.py").write_text(RUN)
    arguments = [str(PROJECT / "tests" / "unit"), str(hook), str(sample), str(tmp_path / "told.json")]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "run.py"), *arguments, *settings(root)],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT), "LOST": str(lost)},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "told.json").read_text())
    assert set(told["lost"]) >= HIT
    assert {kind for _, kind, _ in told["failed"]} <= {"TransientError"}
    assert digests(told["stages"]) == undisturbed(sample, tmp_path / "calm")
