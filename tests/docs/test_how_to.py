"""What docs/how-to.md builds works, in as few files as it says: a stage, a target, features, a data set, a case."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
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
from tasks.sources import inspection, profiles
from tasks.stages import declared_stages
from tasks.stages.features import text_score
from tasks.stages.features.settings import wanted_groups
from tasks.stages.features.text_score_rows import questions
from tests.support.raw_files import read
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
    asked = questions(VOTES, "noticed", config.min_votes)
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


PARTS = ("benchmarks", "conf", "flows", "tasks", "tests/support")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, to build in."""
    for part in PARTS:
        shutil.copytree(PROJECT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def build(project: Path, heading: str) -> list[str]:
    """Do what a section of the page says: each block goes into the file named last before it. Return all that differs.

    A file that is not there is made; one that is there gets the block at its end.
    """
    page = (PROJECT / "docs/how-to.md").read_text()
    section = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    named = re.compile(r"[`\[]((?:benchmarks|conf|flows|tasks)/[\w/]+\.(?:py|yaml))[`\]]")
    for found in re.finditer(r"^( *)```(?:python|yaml)\n(.*?)^ *```", section, flags=re.S | re.M):
        file = project / named.findall(section[: found.start()])[-1]
        with file.open("a") as open_file:
            open_file.write(re.sub(f"^{found[1]}", "", found[2], flags=re.M))
    files = [f.relative_to(project) for part in PARTS for f in (project / part).rglob("*") if f.is_file()]
    return sorted(str(f) for f in files if not is_same(project / f, PROJECT / f))


def is_same(file: Path, other: Path) -> bool:
    return other.is_file() and file.read_bytes() == other.read_bytes()


def python(project: Path, code: str, *words: str) -> Any:
    """What this code prints as JSON, run in the copy."""
    environment = {**os.environ, "PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=project, env=environment, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


SETTINGS_OF_VOICE = """
import json
from flows.cli.reference import page
from tasks.core.errors import SettingsError
from tasks.engines.suites import load_suite
from tasks.settings import load_settings
from tasks.stages import declared_stages

def expected(*overrides):
    suite = load_suite("features").under(load_settings(overrides=overrides).features)
    return sum(e.kwargs.get("column") == "first_person" for e in suite.tables[""])

try:
    load_settings(overrides=["features.groups.voise=false"])
except SettingsError as error:
    hint = error.fix
(row,) = [line for line in page().splitlines() if "features.groups.voice" in line]
key = declared_stages()["features"].code["source"]
print(json.dumps([expected(), expected("features.groups.voice=false"), hint, row, key]))
"""
FEATURES_OF_VOICE = """
import json, sys
from pathlib import Path
from flows.run import environment
environment.prepare()
from tasks.core.storage.store import SnapshotStore
from tasks.engines import cluster
from tests.support.feature_runs import features_alone, some_reviews
from tests.support.stage_runs import settings

config = settings("ray.logical_cpus=2", "ray.object_store_mb=100", "features.groups.text=false")
cluster.start(config.ray)
rows = [{**row, "text": text} for row, text in zip(some_reviews(300), ["I like my lamp", "Fine"] * 150)]
done = features_alone(SnapshotStore(Path(sys.argv[1])), rows, config.features)
cluster.stop()
print(json.dumps([done.facts["groups"], done.read()["first_person"].to_pylist()]))
"""


def test_a_group_of_features_takes_two_files_and_its_settings_come_with_it(project: Path) -> None:
    before = declared_stages()["features"].code["source"]
    changed = build(project, "A group of features of your own")
    assert changed == ["conf/expectations/features.yaml", "tasks/stages/features/groups/voice.py"]
    on, off, hint, row, key = python(project, SETTINGS_OF_VOICE)
    assert (on, off, hint) == (1, 0, "did you mean features.groups.voice?")
    assert row == "| `features.groups.voice` | true or false | `true` | who speaks |"
    assert key != before


@pytest.mark.nightly  # a Ray session of its own, whose workers import the copy
def test_the_group_of_the_page_is_in_the_snapshot(project: Path) -> None:
    build(project, "A group of features of your own")
    groups, counts = python(project, FEATURES_OF_VOICE, str(project / "snapshots"))
    assert groups["voice"] == ["first_person"]
    assert counts == [2, 0] * 150


def test_a_data_set_takes_one_file_and_is_recognized_and_read(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build(project, "A data set of your own") == ["conf/datasets/shop.yaml"]
    raw = project / "shop.csv"
    raw.write_text(block("csv", "customer"))
    for module in (inspection, profiles):
        monkeypatch.setattr(module, "CONF", project / "conf")
    found = inspection.inspect([str(raw)]).chosen
    assert found is not None
    assert (found.name, found.usable, found.lost_values) == ("shop", 2, 0)
    rows, rejects = read(raw, "shop")
    assert [(r["user_id"], r["rating"], f"{r['timestamp']:%Y-%m-%d}") for r in rows] == [
        ("c17", 5, "2023-08-31"),
        ("c18", 2, "2023-09-04"),
    ]
    assert rejects == []


def test_a_bench_case_takes_one_file_and_is_measured(project: Path) -> None:
    assert build(project, "A bench case of your own") == ["benchmarks/cases/digests.py"]
    code = (
        "import json; from benchmarks.harness import run_case; print(json.dumps(run_case('digests', size=50, runs=1)))"
    )
    measured = python(project, code)
    assert (measured["size"], measured["checked"]) == ({"texts": 50}, "50 texts: every digest the same")
    assert measured["ratio"].keys() == {"loop"}
