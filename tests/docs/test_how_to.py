"""The stage that docs/how-to.md builds is one: it runs, commits, is reused, and its expectations are ones we know."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import xgboost
import yaml

import tasks.stages
from tasks.core.errors import SettingsError
from tasks.core.sections import PROJECT
from tasks.core.stage import StageRun, run_stage
from tasks.core.storage.store import SnapshotStore
from tasks.domain import targets
from tasks.domain.metrics import measure, name_of
from tasks.domain.targets import Target, labels
from tasks.engines import suites
from tasks.settings import load_settings
from tasks.stages import declared_stages
from tasks.stages.features import text_score
from tasks.stages.features.selection import wanted_groups
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


@pytest.fixture
def noticed(monkeypatch: pytest.MonkeyPatch) -> Target:
    """Put the page's target where it says that it belongs."""
    names: dict[str, Any] = {"pa": pa, "pc": pc, "Target": Target}
    exec(block("python", "NOTICED"), names)
    target: Target = names["NOTICED"]
    monkeypatch.setitem(targets.TARGETS, target.name, target)
    return target


VOTES = pa.table({"rating": [5.0, 4.0, 1.0], "helpful_votes": [0, 1, None], "total_votes": [0, 2, None]})


def test_one_entry_makes_the_target_of_the_page_known_to_settings_features_and_measures(noticed: Target) -> None:
    config = load_settings(overrides=["features.target=noticed"]).features
    assert labels(VOTES, noticed, config.min_votes).to_pylist() == [0, 1, None]
    groups = wanted_groups(config, with_items=False, with_language=True)
    assert ("stars" in groups, "helpful" in groups) == (config.groups.stars, False)
    asked = text_score.questions(VOTES, "noticed", config.min_votes)
    np.testing.assert_equal(asked[:, -1], np.array([0, 1, np.nan], dtype=np.float32))
    scores = np.arange(12.0, dtype=np.float32).reshape(2, 6)
    assert text_score.columns((scores, scores), "noticed")["text_score"].tolist() == [4, 10]
    x, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0.0, 0.0, 1.0, 1.0])
    model = xgboost.train({**noticed.params, "min_child_weight": 0}, xgboost.DMatrix(x, y), 20)
    measures = measure(noticed, y, model.predict(xgboost.DMatrix(x)))
    assert set(measures) == {"logloss", "auc", "accuracy"}
    assert measures["auc"]["value"] == 1
    assert name_of(noticed, "logloss") == "log loss (nats)"


def test_an_unknown_target_is_refused_with_the_names_of_those_that_are_known() -> None:
    with pytest.raises(SettingsError, match=r"unknown target 'noticed'(.|\n)*known: rating, positive, stars, helpful"):
        load_settings(overrides=["features.target=noticed"])
    with pytest.raises(SettingsError, match="unknown target"):
        text_score.columns((np.zeros((1, 5)), np.zeros((1, 5))), "noticed")
