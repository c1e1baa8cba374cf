"""Every node with CPUs lost while Ray Data works: the stage waits for a new one, or says what a retry cures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.core.sections import PROJECT

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.nightly]

# A head without CPUs and one node, which dies when a task on it has encoded a file. When the cluster knows that it has
# no CPU left, a node joins. If the stage has failed meanwhile, it is run again.
RUN = """
import datetime as dt
import json
import os
import sys
import threading
import time
from pathlib import Path

from tests.support.ray_nodes import Nodes
from tests.support.stage_runs import made, put_reviews, settings

if __name__ == "__main__":
    root, marker = Path(sys.argv[1]), Path(sys.argv[1]) / "struck"
    fault = {"RAYMILL_KILL_AT": "tokenize:encoded:1", "RAYMILL_FAULT": "SIGSTOP", "RAYMILL_KILL_ONCE": str(marker)}
    told = {"errors": []}
    with Nodes() as nodes:
        nodes.start(0)
        doomed = nodes.start(2, env={"PYTHONPATH": os.environ["PYTHONPATH"], **fault})
        os.environ.update(nodes.environment)

        def replace():
            while not marker.exists():
                time.sleep(0.05)
            doomed.kill()
            while ray.cluster_resources().get("CPU"):
                time.sleep(0.05)
            nodes.start(2, env={"PYTHONPATH": os.environ["PYTHONPATH"]})

        from tasks.core.storage.store import SnapshotStore
        from tasks.engines import cluster
        from tasks.stages.tokenize import tokenize

        store, config = SnapshotStore(root / "snapshots"), settings()
        begin = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
        rows = [{"timestamp": begin, "rating": 5.0, "text": f"text {i}", "title": "t"} for i in range(40)]
        reviews = put_reviews(store, *(rows[i : i + 10] for i in range(0, 40, 10)))
        cluster.start(config.ray)
        import ray

        replacing = threading.Thread(target=replace)
        replacing.start()
        for _ in range(2):
            try:
                told["rows"] = made(store, tokenize, [reviews], config.tokenize).snapshot.rows()
                break
            except Exception as error:
                told["errors"].append([type(error).__name__, str(error)])
        replacing.join()
        (root / "told.json").write_text(json.dumps(told))
        cluster.stop()
"""


def test_tokenize_whose_last_node_dies_is_done_when_there_is_one_again(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(RUN)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "run.py"), str(tmp_path)],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["rows"] == 40
    assert {kind for kind, _ in told["errors"]} <= {"TransientError"}, told
