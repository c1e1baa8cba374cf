"""A process killed at each step of a stage, told to end, or out of disk: the next one ends as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tasks.core import faults
from tasks.core.sections import PROJECT
from tasks.core.storage.store import SnapshotStore, damaged_files

pytestmark = [pytest.mark.fault, pytest.mark.slow]

# Two stages: `numbers`, and `squares` made from it, which resumes from the progress in its scratch folder.
STAGES = """
import json
import sys
from pathlib import Path

import pyarrow as pa
from pydantic import BaseModel

from tasks.core.snapshot_files import part_name
from tasks.core.storage.store import SnapshotStore
from tasks.core.stage import run_stage, stage


class Config(BaseModel):
    rows: int = 100


@stage(version=1, config=Config)
def numbers(config, out):
    out.write_table(part_name(0), pa.table({"n": range(config.rows)}))
    out.count(rows_in=config.rows)


@stage(version=1, config=Config)
def squares(numbers, config, out):
    journal = out.scratch / "journal"
    out.note(resumed=journal.exists())
    journal.write_text("squared")
    squared = [n * n for n in numbers.read()["n"].to_pylist()]
    for index in range(3):
        out.write_table(part_name(index), pa.table({"square": squared[index::3]}))
    out.count(rows_in=numbers.rows())
    out.fact(largest=max(squared))


def main(root):
    store = SnapshotStore(Path(root))
    check = lambda stage, out: {"rows": out.rows()}
    first = run_stage(numbers, [], Config(), store, validate=check)
    second = run_stage(squares, [first.snapshot], Config(), store, validate=check)
    said = [
        {"digest": r.snapshot.digest, "reused": r.reused, "resumed": r.notes.get("resumed")} for r in (first, second)
    ]
    print(json.dumps(said))


if __name__ == "__main__":
    # Under its own name, so that the stages' code can be found.
    import toystages

    toystages.main(sys.argv[1])
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("toy") / "toystages.py"
    path.write_text(STAGES)
    return path


def start(script: Path, root: Path, kill_at: str = "", fault: str = "SIGKILL") -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(script.parent), str(PROJECT)])
    return subprocess.run(
        [sys.executable, str(script), str(root)],
        env={**os.environ, "PYTHONPATH": path, "RAYMILL_KILL_AT": kill_at, "RAYMILL_FAULT": fault},
        capture_output=True,
        text=True,
        timeout=120,
    )


def finish(script: Path, root: Path) -> list[dict[str, Any]]:
    done = start(script, root)
    assert done.returncode == 0, done.stderr
    said: list[dict[str, Any]] = json.loads(done.stdout)
    return said


@pytest.fixture(scope="module")
def undisturbed(script: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Digests of a run that nobody killed."""
    return [s["digest"] for s in finish(script, tmp_path_factory.mktemp("undisturbed"))]


@pytest.mark.parametrize("point", faults.POINTS)
def test_killed_at_any_step_then_rerun_gives_the_same_digest_and_leaves_nothing_behind(
    script: Path, undisturbed: list[str], tmp_path: Path, point: str
) -> None:
    store = SnapshotStore(tmp_path)
    killed = start(script, tmp_path, kill_at=f"squares:{point}")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    committed = {s.stage for s in store}
    assert committed == ({"numbers", "squares"} if point == "after-manifest" else {"numbers"})

    numbers, squares = finish(script, tmp_path)
    assert [numbers["digest"], squares["digest"]] == undisturbed
    assert numbers["reused"]
    assert squares["reused"] == (point == "after-manifest")
    if not squares["reused"]:
        assert squares["resumed"] == (point != "before-run")
    assert_clean(store)
    assert all(s["reused"] for s in finish(script, tmp_path))


@pytest.mark.parametrize(
    ("at", "fault", "status", "says"),
    [
        ("squares:after-run", "SIGTERM", -signal.SIGTERM, ""),
        ("squares:after-run", "SIGINT", -signal.SIGINT, "KeyboardInterrupt"),
        ("files:written", "ENOSPC", 1, "No space left on device"),
        ("files:written", "EIO", 1, "Input/output error"),
    ],
)
def test_ended_by_a_signal_or_a_disk_that_fails_then_rerun_gives_the_same_digest_and_leaves_nothing_behind(
    script: Path, undisturbed: list[str], tmp_path: Path, at: str, fault: str, status: int, says: str
) -> None:
    ended = start(script, tmp_path, kill_at=at, fault=fault)
    assert (ended.returncode, says in ended.stderr) == (status, True), ended.stderr
    assert [said["digest"] for said in finish(script, tmp_path)] == undisturbed
    assert_clean(SnapshotStore(tmp_path))


def test_what_a_killed_one_left_may_come_from_the_future(script: Path, undisturbed: list[str], tmp_path: Path) -> None:
    """As when a wrong clock is set right between two runs."""
    start(script, tmp_path, kill_at="squares:before-manifest")
    tomorrow = time.time() + 86_400
    for path in tmp_path.rglob("*"):
        os.utime(path, (tomorrow, tomorrow))
    assert [said["digest"] for said in finish(script, tmp_path)] == undisturbed
    assert_clean(SnapshotStore(tmp_path))


@pytest.mark.nightly
def test_killed_again_and_again_still_ends_the_same(script: Path, undisturbed: list[str], tmp_path: Path) -> None:
    for stage, point in (
        ("numbers", "after-run"),
        ("numbers", "before-manifest"),
        ("squares", "before-manifest"),
        ("squares", "before-manifest"),
    ):
        assert start(script, tmp_path, kill_at=f"{stage}:{point}").returncode == -signal.SIGKILL
    assert [s["digest"] for s in finish(script, tmp_path)] == undisturbed
    assert_clean(SnapshotStore(tmp_path))


def assert_clean(store: SnapshotStore) -> None:
    """At each key there is one committed attempt, whole, its manifest, and nothing else."""
    snapshots = list(store)
    assert {s.stage for s in snapshots} == {"numbers", "squares"}
    for snapshot in snapshots:
        names = {p.name for p in Path(snapshot.folder).iterdir()}
        assert names == {"manifest.json", snapshot.manifest.attempt}
        assert damaged_files(Path(snapshot.folder), snapshot.manifest, full=True) == []
