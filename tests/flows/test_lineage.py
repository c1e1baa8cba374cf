"""`raymill snapshots --graph`: what the newest run was made from, as a diagram."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.cli.snapshots import lineage_graph
from tasks.core.errors import UserError
from tasks.core.snapshots import InputRef, Snapshot
from tasks.core.storage.store import SnapshotStore
from tests.support.toy_snapshots import ABOUT, fill

RAW = InputRef(name="source", stage="source", key="", digest="feedfacefeedface")


def made(store: SnapshotStore, stage: str, *read: Snapshot | InputRef) -> Snapshot:
    inputs = tuple(
        i if isinstance(i, InputRef) else InputRef(name="x", stage=i.stage, key=i.key, digest=i.digest) for i in read
    )
    key = "-".join([stage, *(i.digest[:4] for i in inputs)])
    return store.commit(fill(store.open_attempt(stage, key)), **{**ABOUT, "inputs": inputs})


def recorded(store: SnapshotStore, name: str, *snapshots: Snapshot) -> None:
    rows = [{"stage": s.stage, "key": s.key, "rows": 1234, "unit": "rows"} for s in snapshots]
    path = store.root.parent / "runs" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"stages": [*rows, {"stage": "register", "key": "", "rows": 0, "unit": "rows"}]}))


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    """Two runs: a first one, and a newest with two stages that a third reads."""
    store = SnapshotStore(tmp_path / "snapshots")
    old = made(store, "ingest", InputRef(name="source", stage="source", key="", digest="0" * 16))
    recorded(store, "20240101", old)
    raw = made(store, "ingest", RAW)
    counts, tokens = made(store, "count-words", raw), made(store, "tokenize", raw)
    recorded(store, "20240102", raw, counts, tokens, made(store, "features", counts, tokens))
    return store


def edges(graph: str) -> list[tuple[str, ...]]:
    return re.findall(r"^    (\w+) --> (\w+)$", graph, flags=re.M)


def test_the_newest_run_is_drawn_from_the_raw_files_on(store: SnapshotStore) -> None:
    graph = lineage_graph(store)
    assert graph.startswith("flowchart LR\n")
    assert edges(graph) == [
        ("raw_ingest", "ingest"),
        ("ingest", "count_words"),
        ("ingest", "tokenize"),
        ("count_words", "features"),
        ("tokenize", "features"),
    ]
    assert 'raw_ingest[("raw files<br/>feedface")]' in graph
    assert "00000000" not in graph


def test_a_node_says_stage_rows_and_digest(store: SnapshotStore) -> None:
    (snapshot,) = (s for s in store if s.stage == "count-words")
    assert f'count_words["count-words<br/>1,234 rows<br/>{snapshot.digest[:8]}"]' in lineage_graph(store)


def test_of_one_stage_only_what_led_to_it_is_drawn(store: SnapshotStore) -> None:
    assert edges(lineage_graph(store, "tokenize")) == [("raw_ingest", "ingest"), ("ingest", "tokenize")]


def test_a_run_that_left_nothing_does_not_count(store: SnapshotStore) -> None:
    before = lineage_graph(store)
    recorded(store, "20240103")
    assert lineage_graph(store) == before


def test_where_there_is_no_run_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run has a snapshot yet"):
        lineage_graph(SnapshotStore(tmp_path / "snapshots"))


def test_the_command_prints_it_whole_at_any_width(store: SnapshotStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    shown = CliRunner().invoke(app, ["snapshots", "--graph", "--set", f"storage.root={store.root.parent}"])
    assert shown.output == lineage_graph(store) + "\n"
