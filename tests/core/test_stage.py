"""The life of a stage: made once and then reused, and a failure commits nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import BaseModel

from tasks.core import stage as subject
from tasks.core.errors import RowsLost, TooManyRejects, ValidationFailed
from tasks.core.snapshot_files import part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import Stage, StageRun, run_stage, stage
from tasks.core.storage.store import SnapshotStore
from tests.support.toy_snapshots import left


class Config(BaseModel):
    n: int = 1
    share: float = 0.5
    max_reject_fraction: float = 0.2


@dataclass(frozen=True)
class Source:
    digest: str = "d1"
    stage: str = "source"
    key: str = ""


class Calls(list[str]):
    """What was called, in order."""

    def noted(self, name: str, error: BaseException | None = None) -> Callable[..., dict[str, Any]]:
        def call(*_: Any) -> dict[str, Any]:
            self.append(name)
            if error:
                raise error
            return {"checked": 1}

        return call


CALLS = Calls()


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


@stage(version=1, config=Config)
def toy_rows(given: Source, config: Config, out: SnapshotWriter) -> None:
    CALLS.append("run")
    out.write_table(part_name(0), pa.table({"id": range(config.n)}))
    out.note(seen=config.n)


def run(
    store: SnapshotStore, what: Stage = toy_rows, config: Config | None = None, error: BaseException | None = None
) -> StageRun:
    return run_stage(
        what,
        [Source()],
        config or Config(),
        store,
        validate=CALLS.noted("validate", error),
        prepare=lambda: CALLS.append("prepare"),
    )


def attempts(store: SnapshotStore) -> list[Path]:
    return [*store.root.rglob("attempt-*"), *store.root.rglob("manifest.json")]


def test_a_stage_that_is_not_there_is_prepared_run_validated_and_committed(store: SnapshotStore) -> None:
    done = run(store)
    assert CALLS == ["prepare", "run", "validate"]
    assert not done.reused
    assert done.validation == {"checked": 1}
    assert done.notes == {"seen": 1}
    assert set(done.seconds) == {"prepare", "run", "validate", "commit"}
    manifest = done.snapshot.manifest
    assert manifest.config == Config().model_dump()
    assert [(i.name, i.stage, i.digest) for i in manifest.inputs] == [("given", "source", "d1")]
    assert manifest.code["version"] == "1"


def test_a_stage_that_is_there_is_reused_and_nothing_runs(store: SnapshotStore) -> None:
    first = run(store)
    CALLS.clear()
    again = run(store)
    assert CALLS == []
    assert again.reused
    assert again.snapshot == first.snapshot
    assert again.validation == first.validation == {"checked": 1}  # its warnings, too
    assert set(again.seconds) == {"reuse"}


def test_another_config_runs_and_both_snapshots_stay(store: SnapshotStore) -> None:
    one, two = run(store), run(store, config=Config(n=2))
    assert not two.reused
    assert {s.key for s in store} == {one.snapshot.key, two.snapshot.key}


@pytest.mark.parametrize("error", [ValidationFailed("odd rows"), KeyboardInterrupt(), RuntimeError("GX broke")])
def test_a_failed_validation_commits_nothing_and_leaves_no_attempt(store: SnapshotStore, error: BaseException) -> None:
    with pytest.raises(type(error)):
        run(store, error=error)
    assert attempts(store) == []
    assert not run(store).reused


@stage(version=1, config=Config)
def toy_failing(given: Source, config: Config, out: SnapshotWriter) -> None:
    out.write_table(part_name(0), pa.table({"id": [1]}))
    (out.scratch / "half").write_text("done so far")
    raise OSError("disk full")


def test_a_failing_stage_commits_nothing_leaves_no_attempt_and_keeps_what_it_can_resume_from(
    store: SnapshotStore,
) -> None:
    with pytest.raises(OSError, match="disk full"):
        run(store, toy_failing)
    assert "validate" not in CALLS
    assert attempts(store) == []
    assert [p.read_text() for p in store.root.rglob("half")] == ["done so far"]


@stage(version=1, config=Config)
def toy_losing(given: Source, config: Config, out: SnapshotWriter) -> None:
    out.write_table(part_name(0), pa.table({"id": [1]}))
    out.count(rows_in=2)


def test_a_stage_that_loses_rows_commits_nothing(store: SnapshotStore) -> None:
    with pytest.raises(RowsLost, match="2 rows in"):
        run(store, toy_losing)
    assert attempts(store) == []


@stage(version=1, config=Config)
def toy_choosy(given: Source, config: Config, out: SnapshotWriter) -> None:
    out.write_table(part_name(0), pa.table({"id": range(10 - config.n)}))
    reasons = ["no stars", *["no text"] * (config.n - 1)]
    out.write_table(part_name(0, "rejects"), pa.table({"reason": reasons}))
    out.count(rows_in=10)


def test_as_many_rejects_as_allowed_pass(store: SnapshotStore) -> None:
    assert run(store, toy_choosy, Config(n=2, max_reject_fraction=0.2)).snapshot.rows("rejects") == 2


def test_more_rejects_than_allowed_fail_and_say_why_and_which_setting(store: SnapshotStore) -> None:
    with pytest.raises(TooManyRejects, match=r"3 of 10 rows cannot be used \(no text: 2, no stars: 1\)") as caught:
        run(store, toy_choosy, Config(n=3, max_reject_fraction=0.2))
    assert caught.value.where == "toy-choosy"
    assert "toy_choosy.max_reject_fraction" in caught.value.fix
    assert "validate" not in CALLS
    assert attempts(store) == []


def test_an_interrupt_right_after_the_commit_costs_nothing(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_stage: str, point: str) -> None:
        if point == "after-manifest":
            raise KeyboardInterrupt

    monkeypatch.setattr(subject.faults, "point", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(store)
    monkeypatch.undo()
    again = run(store)
    assert again.reused
    assert again.snapshot.rows() == 1


BEGUN, GO_ON = threading.Event(), threading.Event()


@stage(version=1, config=Config)
def toy_resuming(given: Source, config: Config, out: SnapshotWriter) -> None:
    """Stops in the middle until GO_ON; with n = 0 it fails then, the first time. It goes on with what is in scratch."""
    CALLS.append("run")
    file = out.scratch / "half"
    resumed = file.exists()
    file.write_text("done so far")
    BEGUN.set()
    assert GO_ON.wait(60)
    if not (resumed or config.n):
        raise OSError("disk full")
    assert file.read_text() == "done so far"  # nobody removed it meanwhile
    out.write_table(part_name(0), pa.table({"id": [1]}))
    out.note(resumed=resumed)


def at_once(store: SnapshotStore, config: Config) -> tuple[Future[StageRun], StageRun]:
    """Run `toy_resuming` twice: the second begins when the first is in the middle, and lets it go on once it waits."""
    BEGUN.clear()
    GO_ON.clear()
    given: Any = {"validate": CALLS.noted("validate")}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(run_stage, toy_resuming, [Source()], config, store, **given)
        assert BEGUN.wait(60)
        second = run_stage(toy_resuming, [Source()], config, store, waiting=GO_ON.set, **given)
    return first, second


def test_of_two_runs_at_one_key_the_second_waits_and_takes_the_first_ones_snapshot(store: SnapshotStore) -> None:
    first, second = at_once(store, Config(n=1))
    assert CALLS == ["run", "validate"]
    assert (first.result().reused, second.reused) == (False, True)
    assert second.snapshot == first.result().snapshot
    assert left(Path(second.snapshot.folder)) == {"manifest.json"}


def test_of_two_runs_at_one_key_the_second_goes_on_where_the_first_one_failed(store: SnapshotStore) -> None:
    first, second = at_once(store, Config(n=0))
    assert isinstance(first.exception(), OSError)
    assert CALLS == ["run", "run", "validate"]
    assert (second.reused, second.notes) == (False, {"resumed": True})
    assert left(Path(second.snapshot.folder)) == {"manifest.json"}


@stage(version=1, config=Config)
def toy_doubled(rows: Snapshot, config: Config, out: SnapshotWriter) -> None:
    out.write_table(part_name(0), pa.table({"id": [2 * i for i in rows.read()["id"].to_pylist()]}))


def test_a_stage_downstream_is_reused_where_the_content_upstream_is_the_same(store: SnapshotStore) -> None:
    def both(config: Config) -> list[StageRun]:
        rows = run(store, config=config)
        return [rows, run_stage(toy_doubled, [rows.snapshot], Config(), store, validate=CALLS.noted("validate"))]

    both(Config(n=3))
    assert [done.reused for done in both(Config(n=3, share=0.1))] == [False, True]
    rows, doubled = both(Config(n=2))
    assert [rows.reused, doubled.reused] == [False, False]
    assert store.lineage([doubled.snapshot.key]) == {rows.snapshot.key, doubled.snapshot.key}
