"""The stage contract: what belongs to a key, what is reused, and that a failure commits nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import BaseModel

import tasks
from tasks.core import stage as subject
from tasks.core.errors import RowsLost, TooManyRejects, ValidationFailed
from tasks.core.snapshots import Snapshot, SnapshotStore, SnapshotWriter, part_name
from tasks.core.stage import Stage, StageRun, run_stage, stage, stage_key

MODULE = '''
"""A stage to change."""
from tasks.borrowed import one
from tasks.core.stage import stage


@stage(version=1)
def toy(given, config, out):
    """Do it."""
    # Why it is done.
    out.fact(n=one() + config.n)
'''
BORROWED = """
import tasks.farther


def one():
    return tasks.farther.ONE
"""


class Config(BaseModel):
    n: int = 1
    share: float = 0.5
    max_reject_fraction: float = 0.2


@dataclass(frozen=True)
class Source:
    digest: str = "d1"
    stage: str = "source"
    key: str = ""


Write = Callable[..., Stage]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write the toy stage's modules and import it anew: write(module=…, borrowed=…, farther=…) -> Stage."""
    (tmp_path / "lib").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path / "lib")])
    monkeypatch.setattr(subject, "CONF", tmp_path / "conf")

    def forget() -> None:
        for name in ("toymodule", "tasks.borrowed", "tasks.farther"):
            sys.modules.pop(name, None)
        subject.source_digest.cache_clear()
        importlib.invalidate_caches()

    def write(module: str = MODULE, borrowed: str = BORROWED, farther: str = "ONE = 1") -> Stage:
        (tmp_path / "toymodule.py").write_text(module)
        (tmp_path / "lib" / "borrowed.py").write_text(borrowed)
        (tmp_path / "lib" / "farther.py").write_text(farther)
        forget()
        return importlib.import_module("toymodule").toy

    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two versions of a file within a second share a time stamp
    yield write
    forget()


def test_the_key_stays_as_long_as_nothing_that_decides_the_output_changes(write: Write) -> None:
    first = stage_key(write(), [Source()], Config())
    assert stage_key(write(), [Source()], Config()) == first
    assert len(first) == 32


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# Why it is done.", "# Another reason."),
        ('"""Do it."""', '"""Do it, said otherwise."""'),
        ('"""A stage to change."""', ""),
        ("one() + config.n", "(one()\n             + config.n)"),
    ],
    ids=["comment", "docstring", "module docstring", "layout"],
)
def test_the_key_stays_when_only_words_or_layout_of_the_code_change(write: Write, old: str, new: str) -> None:
    assert old in MODULE
    key = stage_key(write(), [Source()], Config())
    assert stage_key(write(MODULE.replace(old, new)), [Source()], Config()) == key


@pytest.mark.parametrize(
    "changed",
    [
        {"module": MODULE.replace("one() + config.n", "one() - config.n")},
        {"module": MODULE.replace("n=one", "m=one")},
        {"module": MODULE.replace("version=1", "version=2")},
        {"module": MODULE.replace("version=1", "version=1, name='other'")},
        {"module": MODULE.replace("version=1", "version=1, libraries=('pyarrow', 'polars')")},
        {"borrowed": BORROWED.replace("return tasks", "return 2 * tasks")},
        {"farther": "ONE = 2"},
    ],
    ids=["code", "fact", "version", "name", "libraries", "imported module", "module imported by that"],
)
def test_the_key_changes_with_the_code(write: Write, changed: dict[str, str]) -> None:
    key = stage_key(write(), [Source()], Config())
    assert stage_key(write(**changed), [Source()], Config()) != key


def test_the_key_changes_with_a_librarys_version(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    key = stage_key(write(), [Source()], Config())
    monkeypatch.setattr(subject.metadata, "version", lambda _name: "0.0.1")
    assert stage_key(write(), [Source()], Config()) != key


@pytest.mark.parametrize(
    ("inputs", "config"),
    [
        ([Source("d2")], Config()),
        ([Source(), Source()], Config()),
        ([], Config()),
        ([Source()], Config(n=2)),
        ([Source()], Config(share=0.25)),
    ],
)
def test_the_key_changes_with_inputs_and_config(write: Write, inputs: list[Source], config: Config) -> None:
    toy = write()
    assert stage_key(toy, inputs, config) != stage_key(toy, [Source()], Config())


def test_the_key_tells_the_order_of_inputs(write: Write) -> None:
    toy, a, b = write(), Source("a"), Source("b")
    assert stage_key(toy, [a, b], Config()) != stage_key(toy, [b, a], Config())


def test_the_key_depends_on_an_inputs_content_and_not_on_its_key(write: Write) -> None:
    # So a change upstream that ends in the same bytes stops there.
    toy = write()
    assert stage_key(toy, [Source(key="k1")], Config()) == stage_key(toy, [Source(key="k2")], Config())


@pytest.mark.parametrize("name", ["expectations/toy.yaml", "page.html.j2"])
def test_the_key_changes_with_the_suite_and_the_conf_files_of_the_stage_alone(
    write: Write, tmp_path: Path, name: str
) -> None:
    (tmp_path / "conf" / "expectations").mkdir(parents=True)
    module = MODULE.replace("version=1", "version=1, files=('page.html.j2',)")
    path = tmp_path / "conf" / name
    path.write_text("one")
    key = stage_key(write(module), [Source()], Config())
    (tmp_path / "conf" / "expectations" / "other.yaml").write_text("not ours")
    assert stage_key(write(module), [Source()], Config()) == key
    path.write_text("two")
    assert stage_key(write(module), [Source()], Config()) != key


@pytest.mark.parametrize("parameters", ["config", "out, config", "given, settings, out"])
def test_a_stage_with_other_parameters_is_refused_when_it_is_declared(parameters: str) -> None:
    names: dict[str, Any] = {}
    exec(f"def wrong({parameters}): ...", names)
    with pytest.raises((TypeError, ValueError)):
        stage(version=1)(names["wrong"])


# From here on the stages are functions of this module.


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


@stage(version=1)
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


@stage(version=1)
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


@stage(version=1)
def toy_losing(given: Source, config: Config, out: SnapshotWriter) -> None:
    out.write_table(part_name(0), pa.table({"id": [1]}))
    out.count(rows_in=2)


def test_a_stage_that_loses_rows_commits_nothing(store: SnapshotStore) -> None:
    with pytest.raises(RowsLost, match="2 rows in"):
        run(store, toy_losing)
    assert attempts(store) == []


@stage(version=1)
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


def test_of_two_processes_at_one_key_both_get_the_first_ones_snapshot(store: SnapshotStore) -> None:
    other: list[StageRun] = []

    def meanwhile(*_: Any) -> dict[str, Any]:
        other.append(run(store))
        return {}

    mine = run_stage(toy_rows, [Source()], Config(), store, validate=meanwhile)
    assert mine.snapshot == other[0].snapshot
    assert mine.snapshot.rows() == 1
    assert len([p for p in store.root.rglob("attempt-*") if p.is_dir()]) == 1


@stage(version=1)
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
