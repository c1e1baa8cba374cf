"""A process killed while it uploads or downloads a snapshot: the next process comes to the same end.

No stage runs twice: a sealed snapshot is uploaded.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.core.settings import PROJECT
from tasks.core.storage.bucket import Bucket
from tasks.core.storage.mirror import MirroredStore
from tasks.core.storage.store import damaged_files
from tests.support.s3_server import SECRET, S3Server, digests, s3_server, set_credentials

pytestmark = [pytest.mark.fault, pytest.mark.slow]

# Two stages; each says in a file of the machine's that it ran.
STAGES = """
import json
import sys
from pathlib import Path

import pyarrow as pa
from pydantic import BaseModel

from tasks.core.storage.mirror import MirroredStore
from tasks.core.storage.bucket import Bucket
from tasks.core.snapshot_files import part_name
from tasks.core.stage import run_stage, stage


class Config(BaseModel):
    rows: int = 100


@stage(version=1, config=Config)
def numbers(config, out):
    out.write_table(part_name(0), pa.table({"n": range(config.rows)}))


@stage(version=1, config=Config)
def squares(numbers, config, out):
    squared = [n * n for n in numbers.read()["n"].to_pylist()]
    for index in range(3):
        out.write_table(part_name(index), pa.table({"square": squared[index::3]}))


def main(root, url):
    store = MirroredStore(Path(root), Bucket(url))
    check = lambda stage, out: {}
    first = run_stage(numbers, [], Config(), store, validate=check)
    second = run_stage(squares, [first.snapshot], Config(), store, validate=check)
    print(json.dumps({r.snapshot.stage: [r.snapshot.digest, r.reused] for r in (first, second)}))


if __name__ == "__main__":
    # Under its own name, so that the stages' code can be found.
    import toystages

    toystages.main(*sys.argv[1:])
"""


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    set_credentials(monkeypatch)


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("toy") / "toystages.py"
    path.write_text(STAGES)
    return path


class Home:
    """A bucket and the machines that have it for their home."""

    def __init__(self, server: S3Server, script: Path, folder: Path) -> None:
        self.script, self.folder = script, folder
        self.url = server.url(f"b{abs(hash(folder)):x}", "home")
        self.bucket = Bucket(self.url)
        server.make(self.bucket.name)

    def start(self, machine: str, kill_at: str = "") -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(self.script.parent), str(PROJECT)])
        return subprocess.run(
            [sys.executable, str(self.script), str(self.folder / machine / "snapshots"), self.url],
            env={**os.environ, "PYTHONPATH": path, "RAYMILL_KILL_AT": kill_at},
            capture_output=True,
            text=True,
            timeout=240,
        )

    def kill(self, machine: str, at: str) -> None:
        killed = self.start(machine, at)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert SECRET not in killed.stderr + killed.stdout

    def finish(self, machine: str) -> dict[str, Any]:
        done = self.start(machine)
        assert done.returncode == 0, done.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    def assert_clean(self, machine: str) -> None:
        """At each key, here and there, one committed attempt, its manifest, and nothing else."""
        store = MirroredStore(self.folder / machine / "snapshots", self.bucket)
        snapshots = {s.stage: s for s in store}
        assert set(snapshots) == {"numbers", "squares"}
        expected = set()
        for snapshot in snapshots.values():
            folder = Path(snapshot.folder)
            assert {p.name for p in folder.iterdir()} == {"manifest.json", snapshot.manifest.attempt}
            assert damaged_files(folder, snapshot.manifest, full=True) == []
            below = [p for p in folder.rglob("*") if p.is_file()]
            expected |= {p.relative_to(store.root.parent).as_posix() for p in below}
        assert {o.name for o in self.bucket.objects("")} == expected
        assert list(store.there.leftovers(set(digests(store)), full=True)) == []


@pytest.fixture
def home(server: S3Server, script: Path, tmp_path: Path) -> Home:
    return Home(server, script, tmp_path)


@pytest.fixture(scope="module")
def undisturbed(server: S3Server, script: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Digests of a run that nobody killed."""
    with pytest.MonkeyPatch.context() as patch:
        set_credentials(patch)
        said = Home(server, script, tmp_path_factory.mktemp("undisturbed")).finish("a")
        yield {stage: digest for stage, (digest, _) in said.items()}


@pytest.mark.parametrize(
    "point",
    [
        "before-manifest",
        "sent:0",
        pytest.param("sent:2", marks=pytest.mark.nightly),
        "before-remote-manifest",
        pytest.param("after-remote-manifest", marks=pytest.mark.nightly),
        pytest.param("after-manifest", marks=pytest.mark.nightly),
    ],
)
def test_killed_on_the_way_to_the_bucket_then_rerun_sends_the_rest_and_leaves_nothing_behind(
    home: Home, undisturbed: dict[str, str], point: str
) -> None:
    home.kill("a", f"squares:{point}")
    again = home.finish("a")
    assert {stage: digest for stage, (digest, _) in again.items()} == undisturbed
    # A reused stage was found done: only one that was killed before it was sealed runs again.
    assert {stage: reused for stage, (_, reused) in again.items()} == {
        "numbers": True,
        "squares": point != "before-manifest",
    }
    home.assert_clean("a")


def test_killed_between_upload_and_manifest_another_machine_makes_it_and_the_first_takes_that(
    home: Home, undisturbed: dict[str, str]
) -> None:
    home.kill("a", "squares:before-remote-manifest")
    on_b = home.finish("b")
    assert on_b == {"numbers": [undisturbed["numbers"], True], "squares": [undisturbed["squares"], False]}
    on_a = home.finish("a")
    assert on_a == {stage: [digest, True] for stage, digest in undisturbed.items()}


@pytest.mark.parametrize(
    "point",
    [
        "fetched:0",
        pytest.param("fetched:1", marks=pytest.mark.nightly),
        pytest.param("after-manifest", marks=pytest.mark.nightly),
    ],
)
def test_killed_while_a_snapshot_comes_from_the_bucket_then_rerun_fetches_the_rest(
    home: Home, undisturbed: dict[str, str], point: str
) -> None:
    home.finish("a")
    home.kill("b", f"squares:{point}")
    assert home.finish("b") == {stage: [digest, True] for stage, digest in undisturbed.items()}
    home.assert_clean("b")
