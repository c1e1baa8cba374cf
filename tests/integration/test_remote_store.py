"""Snapshots with a home in a bucket, as users have it: two machines, an outage, gc for all of them, clear refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flows.cli import snapshots as maintenance
from tasks.core import faults
from tasks.core.errors import TransientError
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import run_stage, stage
from tasks.core.storage import bucket as remote
from tasks.core.storage import mirror, remote_snapshots
from tasks.core.storage.mirror import MirroredStore
from tasks.core.storage.opening import open_store
from tasks.settings import Settings, load_settings
from tasks.sources.synth import synthesize
from tasks.stages.tune.settings import TuneConfig
from tests.support.command import raymill
from tests.support.mlflow_database import new_database
from tests.support.s3_server import SECRET, S3Server, digests, forget_clients, s3_server, set_credentials

pytestmark = pytest.mark.slow
RAN: list[str] = []


@stage(version=1, config=TuneConfig, name="clean")
def numbers(config: TuneConfig, out: SnapshotWriter) -> None:
    RAN.append("clean")
    out.write_table("part-00000.parquet", pa.table({"n": [config.trials]}))


@stage(version=1, config=TuneConfig, name="features")
def squares(numbers: Snapshot, config: TuneConfig, out: SnapshotWriter) -> None:
    RAN.append("features")
    out.write_table("part-00000.parquet", pa.table({"square": [n * n for n in numbers.read()["n"].to_pylist()]}))


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    set_credentials(monkeypatch)
    RAN.clear()


class Machines:
    """Machines with one bucket for their home, each with folders and an MLflow of its own."""

    def __init__(self, server: S3Server, folder: Path) -> None:
        self.folder, self.url = folder, server.url(f"b{abs(hash(folder)):x}", "home")
        server.make(self.url[5:].partition("/")[0])

    def settings(self, name: str, *overrides: str) -> Settings:
        own = [f"storage.root={self.folder / name}", f"storage.remote={self.url}"]
        database = f"tracking.uri=sqlite:///{self.folder / name / 'mlflow.db'}"
        return load_settings(overrides=[*own, database, *overrides])

    def store(self, name: str) -> MirroredStore:
        store = open_store(self.settings(name).storage)
        assert isinstance(store, MirroredStore)
        return store

    def run(self, name: str, run_id: str, trials: int, **more: Any) -> list[Snapshot]:
        """Both stages, and the run's record as the flow leaves it."""
        store, settings = self.store(name), self.settings(name, f"tune.trials={trials}")
        first = run_stage(numbers, [], settings.tune, store, validate=lambda _stage, _out: {}).snapshot
        second = run_stage(squares, [first], settings.tune, store, validate=lambda _stage, _out: {}).snapshot
        record = store.root.parent / "runs" / f"{run_id}.json"
        record.parent.mkdir(exist_ok=True)
        # The later stage alone: what it was made from is known from its manifest.
        rows = [{"stage": second.stage, "key": second.key}]
        about = {"run_id": run_id, "stages": rows, "tracking": settings.tracking.uri, **more}
        record.write_text(json.dumps(about))
        store.keep(record)
        return [first, second]

    def gc(self, name: str, *overrides: str) -> set[tuple[str, str]]:
        """Run gc; return which snapshots it removed, and where."""
        gone = set()
        for removal in maintenance.plan_gc(self.settings(name, *overrides)):
            maintenance.remove(removal)
            gone.add(("there" if removal.bucket else "here", str(removal.path).rpartition("/")[2]))
        return gone


@pytest.fixture
def machines(s3: S3Server, tmp_path: Path) -> Machines:
    return Machines(s3, tmp_path)


@pytest.fixture
def aged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make everything in the bucket count as old."""
    monkeypatch.setattr(remote_snapshots, "SETTLED", timedelta(seconds=-60))


def test_a_store_that_goes_down_in_the_middle_costs_no_work(
    machines: Machines, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(stage: str, *point: Any) -> None:
        if (stage, *point) == ("features", "sent", 0):
            s3.stop()

    with monkeypatch.context() as patch:
        patch.setattr(faults, "point", down)
        try:
            with pytest.raises(TransientError, match="does not answer") as caught:  # for which the task has its retries
                machines.run("a", "1", trials=3)
            assert "start again" in caught.value.fix
            assert SECRET not in str(caught.value)
        finally:
            s3.start()
    assert RAN == ["clean", "features"]
    assert [s.stage for s in machines.store("a")] == ["clean"]
    assert maintenance.plan_gc(machines.settings("a", "storage.keep_runs=1"))[:-1] == []  # what waits is left alone

    made = machines.run("a", "1", trials=3)
    assert RAN == ["clean", "features"]
    assert machines.run("b", "2", trials=3)[1].digest == made[1].digest
    assert RAN == ["clean", "features"]


def test_gc_keeps_in_the_bucket_what_a_recent_run_of_any_machine_needs(machines: Machines, aged: None) -> None:
    old = machines.run("a", "20240101", trials=1)
    theirs = machines.run("b", "20240102", trials=2)
    mine = machines.run("a", "20240103", trials=3)
    assert machines.gc("a", "storage.keep_runs=2") == {(at, s.key) for s in old for at in ("here", "there")}
    assert set(digests(machines.store("a"))) == {s.key for s in mine}
    assert set(machines.store("c").manifests()) == {s.key for s in (*mine, *theirs)}
    assert machines.gc("b", "storage.keep_runs=2") == set()


def test_gc_keeps_what_a_model_was_made_from_that_is_registered_elsewhere(machines: Machines, aged: None) -> None:
    theirs = machines.run("b", "20240101", trials=2, decision="version 1 is champion")
    mine = machines.run("a", "20240102", trials=1, decision="version 1 is champion")
    machines.run("a", "20240103", trials=3)
    # Only b can ask its own registry, in which there is no such model; a cannot know.
    assert machines.gc("a", "storage.keep_runs=1") == {(at, s.key) for s in mine for at in ("here", "there")}
    assert machines.gc("b", "storage.keep_runs=1") == {(at, s.key) for s in theirs for at in ("here", "there")}


def test_gc_keeps_what_a_registered_model_was_made_from(
    machines: Machines, aged: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = machines.run("b", "20240101", trials=1)
    machines.run("b", "20240102", trials=2)
    monkeypatch.setattr(maintenance, "registered_keys", lambda _settings: {old[1].key})
    assert machines.gc("a", "storage.keep_runs=1") == set()


def test_gc_removes_nothing_that_is_younger_than_a_day_from_the_bucket(machines: Machines) -> None:
    old = machines.run("a", "20240101", trials=1)
    machines.run("a", "20240102", trials=2)
    assert machines.gc("a", "storage.keep_runs=1") == {("here", s.key) for s in old}


def test_gc_removes_nothing_at_all_while_the_bucket_does_not_answer(machines: Machines, s3: S3Server) -> None:
    machines.run("a", "20240101", trials=1)
    machines.run("a", "20240102", trials=2)
    s3.stop()
    try:
        with pytest.raises(TransientError):
            machines.gc("a", "storage.keep_runs=1")
    finally:
        s3.start()
    assert len(digests(machines.store("a"))) == 4


def test_a_sealed_attempt_that_nobody_asks_for_goes_after_a_day(
    machines: Machines, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machines.store("a")
    monkeypatch.setattr(faults, "point", lambda _stage, *point: s3.stop() if point == ("sent", 0) else None)
    try:
        with pytest.raises(TransientError):
            run_stage(numbers, [], machines.settings("a").tune, store, validate=lambda _stage, _out: {})
    finally:
        monkeypatch.undo()
        s3.start()
        set_credentials(monkeypatch)
    (attempt,) = store.root.glob("clean/*/attempt-*/")
    assert maintenance.plan_gc(machines.settings("a")) == []
    monkeypatch.setattr(mirror, "SETTLED", timedelta(seconds=-60))
    (removal,) = maintenance.plan_gc(machines.settings("a"))
    assert removal.path == attempt


class Place:
    """A machine on which `raymill run` is started, as far as the stage clean."""

    def __init__(self, machines: Machines, reviews: Path, name: str) -> None:
        self.root, self.machines, self.reviews = machines.folder / name, machines, reviews

    def run(self, remote: str, **variables: str) -> tuple[int, str, dict[str, Any]]:
        database = new_database(self.root / "mlflow.db")
        given = {"storage.root": self.root / "data", "storage.remote": remote}
        given |= {"tracking.uri": database, "ingest.min_rows": 10}
        words = [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
        summary = self.root / "summary.json"
        place = ("--input", str(self.reviews), "--until", "clean", "--json", str(summary))
        done = raymill("run", *place, *words, COLUMNS="200", **variables)
        said = done.stdout + done.stderr
        assert SECRET not in said
        return done.returncode, said, json.loads(summary.read_text()) if summary.exists() else {}


@pytest.mark.usefixtures("ray_session")
def test_a_run_on_another_machine_goes_on_from_the_bucket_and_no_secret_is_written(
    machines: Machines, server: str, tmp_path: Path
) -> None:
    forget_clients()
    reviews = tmp_path / "reviews"
    synthesize(600, 7, reviews)
    summaries = []
    for name in ("a", "b"):
        status, said, summary = Place(machines, reviews, name).run(machines.url, PREFECT_API_URL=server)
        assert status == 0, said[-3000:]
        summaries.append(summary)
    (first, second) = ({s["stage"]: (s["digest"], s["reused"]) for s in summary["stages"]} for summary in summaries)
    assert set(first) == {"ingest", "clean"}
    assert second == {name: (digest, True) for name, (digest, _) in first.items()}
    bucket = machines.store("c").bucket
    records = {o.name for o in bucket.objects("runs/")}
    assert records == {f"runs/{summary['run_id']}.json" for summary in summaries}
    written = [o.name for o in bucket.objects("") if SECRET.encode() in (bucket.get(o.name) or b"")]
    written += [str(p) for p in tmp_path.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]
    assert written == []


def test_a_bucket_that_cannot_be_used_is_refused_before_any_work(
    machines: Machines, s3: S3Server, tmp_path: Path
) -> None:
    reviews = tmp_path / "reviews"
    synthesize(100, 7, reviews)
    place = Place(machines, reviews, "a")
    for remote_url, expected, says in (
        (s3.url("elsewhere"), 2, "there is no such bucket"),
        ("s3://reviews/home?scheme=http&endpoint_override=127.0.0.1:9", 1, "the store does not answer"),
        (f"s3://AKIATEST:{SECRET}@reviews/home", 2, "must not hold keys"),
    ):
        status, said, _ = place.run(remote_url)
        assert (status, says in said) == (expected, True), said
        assert "Traceback" not in said
    assert not list(place.root.rglob("snapshots/*"))
