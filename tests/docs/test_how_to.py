"""The stage that docs/how-to.md builds is one: it runs, commits, is reused, and its expectations are ones we know."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

import tasks.stages
from tasks.core.sections import PROJECT
from tasks.core.stage import StageRun, run_stage
from tasks.core.storage.store import SnapshotStore
from tasks.engines import suites
from tasks.stages import declared_stages
from tests.support.toy_snapshots import made

REVIEWS = pa.table({"review_id": ["a", "b", "c", "d"], "text": ["ok", "quite good", "quite long", "no"]})


def block(language: str, mark: str) -> str:
    """The fenced block of the page that holds `mark`, without the indentation of a list."""
    page = (PROJECT / "docs/how-to.md").read_text()
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", page, flags=re.S | re.M)
    (text,) = (re.sub(f"^{indent}", "", text, flags=re.M) for indent, text in found if mark in text)
    return str(text)


@pytest.fixture
def longest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Put the page's module where it says that it belongs, among the declared stages."""
    (tmp_path / "longest.py").write_text(block("python", "def longest"))
    monkeypatch.setattr(tasks.stages, "__path__", [*tasks.stages.__path__, str(tmp_path)])
    declared_stages.cache_clear()
    yield import_module("tasks.stages.longest")
    sys.modules.pop("tasks.stages.longest")
    declared_stages.cache_clear()


def test_the_module_alone_makes_the_stage_known_with_its_settings(longest: Any) -> None:
    found = declared_stages()["longest"]
    assert (found.section, found.unit) == ("longest", "rows")
    assert found.config(**yaml.safe_load(block("yaml", "rows: 100"))["longest"]).model_dump() == {"rows": 100}


def run(module: Any, store: SnapshotStore, rows: int) -> StageRun:
    raw = store.find("clean", "k") or made(store, "k", "clean", REVIEWS)
    config = module.LongestConfig(rows=rows)
    return run_stage(module.longest, [raw], config, store, validate=lambda stage, out: {})


def test_the_stage_of_the_page_runs_and_is_reused(longest: Any, store: SnapshotStore) -> None:
    done = run(longest, store, rows=2)
    assert done.snapshot.read().to_pydict() == {"review_id": ["b", "c"], "chars": [10, 10]}
    assert done.snapshot.facts == {"longest_chars": 10}
    assert run(longest, store, rows=2).reused
    assert not run(longest, store, rows=3).reused


def test_its_expectations_are_ones_we_know(tmp_path: Path) -> None:
    text = block("yaml", "column: chars")
    (tmp_path / "longest.yaml").write_text(text)
    suite = suites.load_suite("longest", tmp_path)
    assert len(suite.tables[""]) == len(yaml.safe_load(text)["tables"][""]) == 3
