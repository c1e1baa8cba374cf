"""The folder of predictions: each row of the input is in it, and it says whether all are there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from flows.run.scoring import ABOUT, LOCK, check_folder, export, for_scoring
from tasks.core.errors import InputError, RunError
from tasks.core.locks import locked
from tasks.core.snapshot_files import part_name
from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore
from tasks.domain.schemas import QUARANTINE, REJECTS
from tasks.settings import load_settings
from tasks.stages.score.registered import RegisteredModel
from tests.support import toy_snapshots

MODEL = RegisteredModel("toy", "3", Path())


def snapshot(store: SnapshotStore, stage: str, key: str, parts: int, rejects: int, rows_in: int) -> Snapshot:
    out = store.open_attempt(stage, key)
    for i in range(parts):
        out.write_table(part_name(i, block=0), toy_snapshots.TABLE)
    row = {"reason": "no user_id", "source": "a.csv", "row": 0, "record": key}
    bad = pa.Table.from_pylist([row] * rejects, schema=REJECTS)
    out.write_table(part_name(0, "rejects", 0), bad, REJECTS)
    if stage == "read-new":
        damaged = [{"source": "b.csv", "reason": "cut short", "rows": 0}]
        out.write_table("quarantine/files.parquet", pa.Table.from_pylist(damaged, schema=QUARANTINE), QUARANTINE)
        out.side_table("quarantine")
    out.count(rows_in=rows_in)
    out.fact(target="rating")
    return store.commit(out, **toy_snapshots.ABOUT)


@pytest.fixture
def stages(tmp_path: Path) -> tuple[Snapshot, Snapshot]:
    """What was read, of 15 rows, and what was scored of it: nine predictions in three files."""
    store = SnapshotStore(tmp_path / "store")
    read = snapshot(store, "read-new", "r", parts=4, rejects=3, rows_in=15)
    return read, snapshot(store, "score", "s", parts=3, rejects=3, rows_in=12)


def about(out: Path) -> Any:
    return json.loads((out / ABOUT).read_text())


def test_each_row_of_the_input_is_scored_or_among_the_rejects(
    stages: tuple[Snapshot, Snapshot], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export(*stages, MODEL, out)
    what = about(out)
    rejects = pl.read_parquet(out / "rejects" / "*.parquet")
    assert (what["rows_in"], what["rows"], what["rejected"], what["finished"]) == (15, 9, 6, True)
    assert len(pl.read_parquet(out / "part-*.parquet")) == 9
    assert rejects["record"].value_counts(sort=True).to_dict(as_series=False) == {"record": ["r", "s"], "count": [3, 3]}
    assert pl.read_parquet(out / "quarantine" / "*.parquet")["reason"].to_list() == ["cut short"]
    assert not [*out.rglob("*.draft")]


def test_an_export_that_was_killed_at_its_first_file_is_done_again(
    stages: tuple[Snapshot, Snapshot], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in (LOCK, f"{ABOUT}.draft"):
        (out / name).write_text("")
    check_folder(out, load_settings())
    export(*stages, MODEL, out)
    assert about(out)["finished"] is True


def test_an_export_that_was_killed_is_told_and_is_done_again(
    stages: tuple[Snapshot, Snapshot], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, settings = tmp_path / "out", load_settings()
    export(*stages, MODEL, out)
    (out / "part-00009-0000.parquet").write_text("of earlier predictions")
    copied: list[str] = []

    def killed(source: Path, target: Path) -> None:
        copied.append(source.name)
        target.write_text("half a file")
        if len(copied) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfile", killed)
        with pytest.raises(KeyboardInterrupt):
            export(*stages, MODEL, out)
    assert about(out)["finished"] is False
    check_folder(out, settings)
    export(*stages, MODEL, out)
    assert about(out)["finished"] is True
    assert sorted(f.name for f in out.glob("part-*")) == [part_name(i, block=0) for i in range(3)]
    assert pl.read_parquet(out / "part-*.parquet").to_arrow()["id"].to_pylist() == [1, 2, 3] * 3


def test_two_runs_do_not_write_into_one_folder_at_once(stages: tuple[Snapshot, Snapshot], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with locked(out / LOCK), pytest.raises(RunError, match="another run is writing"):
        export(*stages, MODEL, out)
    check_folder(out, load_settings())  # the lock alone is nothing of somebody else's
    export(*stages, MODEL, out)


def test_a_folder_of_something_else_and_an_address_are_refused(tmp_path: Path) -> None:
    settings = for_scoring(load_settings(), str(tmp_path / "in"), None)
    (tmp_path / "mine.txt").write_text("not predictions")
    for out, said in (
        (tmp_path, "exists and holds no predictions"),
        (tmp_path / "mine.txt", "exists and holds no predictions"),
        (tmp_path / "in" / "out", "is within the input"),
        (Path("s3://bucket/x"), "s3:/bucket/x is no folder of this machine"),
    ):
        with pytest.raises(InputError, match=said):
            check_folder(out, settings)


def test_the_profile_that_reads_the_input_names_the_model_unless_a_name_does() -> None:
    def named(*overrides: str, dataset: str | None = None) -> tuple[str, str]:
        data = for_scoring(load_settings(overrides=overrides), None, dataset).data
        return data.dataset, data.called

    assert named(dataset="yelp") == ("yelp", "yelp")
    assert named("data.dataset=yelp") == ("yelp", "yelp")
    assert named("data.name=mine", dataset="yelp") == ("yelp", "mine")
